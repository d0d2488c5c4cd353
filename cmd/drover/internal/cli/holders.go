package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/requestid"
)

// containerNameTime is how long the engine may take to list its containers. The names are only a convenience.
const containerNameTime = time.Second

// elsewhereError is an error about a volume in use whose home is another node. Only that node can name the holders.
type elsewhereError struct {
	error
	node, volume string
}

func (e *elsewhereError) Unwrap() error { return e.error }

// PrintError writes an error as one line. If the error is about a volume in use, a line for each holder follows, or a
// line that says where the holders are known. If it is an internal error of a server, a line with the ID of the request
// follows.
func (a *App) PrintError(ctx context.Context, err error) {
	PrintError(a.ErrOut, err)
	if id := requestid.Of(ctx); id != "" && errors.Is(err, dataset.ErrInternal) {
		_, _ = fmt.Fprintf(a.ErrOut, "drover: the logs of the hosts say more: search them for %s=%s\n",
			requestid.Field, id)
	}
	var elsewhere *elsewhereError
	if errors.As(err, &elsewhere) {
		_, _ = fmt.Fprintf(a.ErrOut, "drover: only node %s knows who uses it: run drover volume inspect %s there\n",
			Clean(elsewhere.node), Clean(elsewhere.volume))
	}
	if held := dataset.HoldersOf(err); held != nil {
		for _, line := range a.HolderLines(ctx, *held) {
			_, _ = fmt.Fprintf(a.ErrOut, "drover: on node %s: %s\n", Clean(held.Node), line)
		}
	}
}

// withHolders adds the holders of the requested volume to an error that says that it is in use. Control decides some
// requests from the reports of nodes, and cannot examine a host. If the home is another node, the error names it. A
// superseded copy is not on the home, so an error about it stays as it is. A backup, restore or verification does not
// need the volume: what is in use is the repository.
func withHolders(ctx context.Context, c Remote, req api.Request, err error) error {
	if !errors.Is(err, dataset.ErrInUse) || dataset.HoldersOf(err) != nil || req.Volume == "" {
		return err
	}
	switch req.Kind {
	case dataset.OpDiscard, dataset.OpBackup, dataset.OpPush, dataset.OpVerify, dataset.OpImport:
		return err
	}
	held, heldErr := c.VolumeHolders(ctx, req.Volume)
	if errors.Is(heldErr, dataset.ErrUnsupported) { // this host is not the home
		if v, volumeErr := c.Volume(ctx, req.Volume); volumeErr == nil {
			return &elsewhereError{err, v.Node, v.Volume}
		}
	}
	if heldErr != nil || held.IsEmpty() {
		return err // the error names the use that is recorded
	}
	return dataset.WithHolders(err, held)
}

// HolderLines returns a line for each holder: who it is, and the command that ends its use. Lines about what could not
// be examined follow. It asks the engine of this host for the names of the containers, and shows only their short IDs
// if the engine does not answer in time. The result is empty only if nobody uses the dataset.
func (a *App) HolderLines(ctx context.Context, held dataset.Holders) (lines []string) {
	names := a.containerNames(ctx, held)
	for _, h := range held.List {
		name := names[h.Container]
		lines = append(lines, Clean(h.Describe(name)+"; to free it: "+h.HowToFree(name)))
	}
	if more := held.Total - len(held.List); more > 0 {
		lines = append(lines, fmt.Sprintf("%d further holders are not listed", more))
	}
	for _, line := range held.Unexamined {
		lines = append(lines, Clean("not examined, and may use it: "+line))
	}
	return lines
}

// containerNames returns the names of the containers among the holders by their IDs, as far as the engine of this host
// knows them. It asks the engine only if there is a container.
func (a *App) containerNames(ctx context.Context, held dataset.Holders) map[string]string {
	for _, h := range held.List {
		if h.Container != "" {
			return a.AllContainerNames(ctx)
		}
	}
	return nil
}

// AllContainerNames returns the names of the running containers of this host's engine by their full IDs. It returns
// none if the engine does not answer in time.
func (a *App) AllContainerNames(ctx context.Context) map[string]string {
	if a.ContainerNames == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, containerNameTime)
	defer cancel()
	names, err := a.ContainerNames(ctx)
	if err != nil {
		return nil // no engine, or one that does not answer: the short IDs must suffice
	}
	return names
}
