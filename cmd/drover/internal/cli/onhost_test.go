package cli

import (
	"context"
	"errors"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// opener is a server that opens every repository, or fails.
type opener struct {
	Remote
	id    string
	err   error
	nodes []api.Node
	away  error // why it does not answer
}

func (o opener) NodeList(context.Context, string) ([]api.Node, error) { return o.nodes, o.away }

func (o opener) CheckRepository(context.Context, api.RepositoryCheck) (api.RepositoryState, error) {
	return api.RepositoryState{ID: o.id}, o.err
}

// If the server is control, the agent of the host opens a repository. Any other failure of the server is returned, also
// if the host has no agent, or an agent of another cluster.
func TestAgentOpensRepositories(t *testing.T) {
	isControl := dataset.Errorf(dataset.ErrUnsupported, "%s: run the command on a node", api.OnlyOnHost)
	noRestic, away := dataset.Errorf(dataset.ErrUnsupported, "backups need restic"), errors.New("connection refused")
	nodes := func(ids ...byte) (list []api.Node) {
		for _, id := range ids {
			list = append(list, api.Node{Node: dataset.Node{ID: uuid.UUID{id}}})
		}
		return list
	}
	for _, c := range []struct {
		server, dial error
		agent        opener
		id           string
		want         error
	}{
		{nil, nil, opener{}, "server", nil},
		{isControl, nil, opener{nodes: nodes(2, 3)}, "agent", nil},
		{isControl, nil, opener{nodes: nodes(3)}, "server", isControl}, // of another cluster
		{isControl, nil, opener{away: away}, "server", isControl},
		{isControl, away, opener{}, "server", isControl},
		{noRestic, nil, opener{}, "server", noRestic},
	} {
		c.agent.id = "agent"
		server := opener{id: "server", err: c.server, nodes: nodes(1, 2)}
		o := onHost{server, func() (Remote, error) { return c.agent, c.dial }}
		got, err := o.CheckRepository(t.Context(), api.RepositoryCheck{})
		if got.ID != c.id || !errors.Is(err, c.want) {
			t.Errorf("%v, %v: got %s, %v", c.server, c.dial, got.ID, err)
		}
	}
}
