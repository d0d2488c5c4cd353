package control

import (
	"testing"

	"github.com/droverhq/drover/dataset"
)

// A pool that was adopted has another name than the one that the profiles of its
// datasets say: they can be cloned all the same.
func TestCloneOnAPoolOfAnotherName(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	a.create("db", "pool=fast")
	a.pools[0].Name = "adopted"
	a.register("alpha")
	if c := a.create("copy", "from=db"); c.Pool != a.pools[0].ID {
		t.Errorf("%+v", c)
	}
	_, err := e.Plan(e.ctx, a.id, create("other", "from=db", "pool=fast"))
	refused(t, err, dataset.ErrUnsupported, "pool fast")
}
