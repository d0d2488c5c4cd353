package cli

import (
	"context"
	"errors"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// opener is a server that opens every repository, or fails.
type opener struct {
	Remote
	id  string
	err error
}

func (o opener) CheckRepository(context.Context, api.RepositoryCheck) (api.RepositoryState, error) {
	return api.RepositoryState{ID: o.id}, o.err
}

// If the server is control, the agent of the host opens a repository. Any other failure of the server is returned, also
// if the host has no agent.
func TestAgentOpensRepositories(t *testing.T) {
	isControl := dataset.Errorf(dataset.ErrUnsupported, "%s: run the command on a node", api.OnlyOnHost)
	noRestic, away := dataset.Errorf(dataset.ErrUnsupported, "backups need restic"), errors.New("connection refused")
	for _, c := range []struct {
		server, dial error
		id           string
		want         error
	}{
		{nil, nil, "server", nil},
		{isControl, nil, "agent", nil},
		{isControl, away, "server", isControl},
		{noRestic, nil, "server", noRestic},
	} {
		o := onHost{opener{id: "server", err: c.server}, func() (Remote, error) { return opener{id: "agent"}, c.dial }}
		got, err := o.CheckRepository(t.Context(), api.RepositoryCheck{})
		if got.ID != c.id || !errors.Is(err, c.want) {
			t.Errorf("%v, %v: got %s, %v", c.server, c.dial, got.ID, err)
		}
	}
}
