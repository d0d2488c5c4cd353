package control

import (
	"fmt"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// However much is in the trash, what is in it comes back, or goes, by its name and
// by its UUID.
func TestManyInTheTrash(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	var gone []dataset.Dataset
	for i := range 140 { // more than one transaction can check
		name := fmt.Sprintf("vol%d", i)
		a.create(name)
		gone = append(gone, a.delete(name))
	}
	e.submit(api.Request{Kind: dataset.OpUndelete, Volume: "vol7"})
	e.submit(api.Request{Kind: dataset.OpUndelete, Volume: gone[8].ID.String()})
	e.submit(api.Request{Kind: dataset.OpPurge, Volume: "vol9"})
	e.submit(api.Request{Kind: dataset.OpPurge, Volume: gone[10].ID.String()})
	e.check()
}

// However many nodes there are, a volume is placed on one.
func TestManyNodes(t *testing.T) {
	e := newEnv(t)
	for i := range 70 { // with two pools each
		e.agent(fmt.Sprint("node", i))
	}
	if out := e.submit(create("db")); out.Operation == nil {
		t.Errorf("%+v", out)
	}
	e.check()
}
