package cli

import (
	"context"
	"slices"
	"strings"

	"github.com/droverhq/drover/control/api"
)

// onHost is a client that has the agent of this host open repositories if the server is a control replica, which
// cannot. In a cluster, only an operator or root of a control host may record a repository, and only an agent can open
// it: so a command that adds a repository needs both servers.
type onHost struct {
	Remote
	agent func() (Remote, error) // connects to the agent of this host
}

// withAgent returns a client that asks the agent of this host where server cannot answer. The agent's address is
// DROVER_API if --api names another server, and otherwise DefaultEndpoint.
func (a *App) withAgent(server Remote) Remote {
	address := DefaultEndpoint
	if other := a.Getenv("DROVER_API"); a.Endpoint != "" && other != "" {
		address = other
	}
	if address == a.Address() {
		return server
	}
	return onHost{server, func() (Remote, error) { return a.Dial(address) }}
}

// askAgent returns the answer of the agent of this host if the server has refused a request because it is control. If
// the agent cannot be reached, or belongs to another cluster, it returns the answer of the server: the repositories of
// two clusters can have the same name.
func askAgent[T any](ctx context.Context, o onHost, answer T, err error, ask func(Remote) (T, error)) (T, error) {
	if err == nil || !strings.Contains(err.Error(), api.OnlyOnHost) {
		return answer, err
	}
	agent, dialErr := o.agent()
	if dialErr != nil || !isSameCluster(ctx, o.Remote, agent) {
		return answer, err
	}
	return ask(agent)
}

// isSameCluster reports whether two servers know a node in common. It returns false if one of them does not answer.
func isSameCluster(ctx context.Context, a, b Remote) bool {
	known, err := a.NodeList(ctx, "")
	if err != nil {
		return false
	}
	also, err := b.NodeList(ctx, "")
	return err == nil && slices.ContainsFunc(also, func(n api.Node) bool {
		return slices.ContainsFunc(known, func(o api.Node) bool { return o.ID == n.ID })
	})
}

func (o onHost) CheckRepository(ctx context.Context, c api.RepositoryCheck) (api.RepositoryState, error) {
	state, err := o.Remote.CheckRepository(ctx, c)
	return askAgent(ctx, o, state, err, func(r Remote) (api.RepositoryState, error) {
		return r.CheckRepository(ctx, c)
	})
}

func (o onHost) VolumeBackups(ctx context.Context, repository, volume string) (api.BackupList, error) {
	list, err := o.Remote.VolumeBackups(ctx, repository, volume)
	return askAgent(ctx, o, list, err, func(r Remote) (api.BackupList, error) {
		return r.VolumeBackups(ctx, repository, volume)
	})
}

func (o onHost) VolumeBackup(ctx context.Context, repository, id string) (api.VolumeBackup, error) {
	b, err := o.Remote.VolumeBackup(ctx, repository, id)
	return askAgent(ctx, o, b, err, func(r Remote) (api.VolumeBackup, error) {
		return r.VolumeBackup(ctx, repository, id)
	})
}

func (o onHost) RemoveBackup(ctx context.Context, repository, id string) error {
	failed := o.Remote.RemoveBackup(ctx, repository, id)
	_, err := askAgent(ctx, o, struct{}{}, failed, func(r Remote) (struct{}, error) {
		return struct{}{}, r.RemoveBackup(ctx, repository, id)
	})
	return err
}

func (o onHost) PruneRepository(ctx context.Context, repository string) error {
	_, err := askAgent(ctx, o, struct{}{}, o.Remote.PruneRepository(ctx, repository), func(r Remote) (struct{}, error) {
		return struct{}{}, r.PruneRepository(ctx, repository)
	})
	return err
}
