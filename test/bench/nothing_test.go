package bench

import (
	"context"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/plugin"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/require"
)

// nothing is an agent that only remembers the names of volumes.
type nothing struct {
	mu      sync.Mutex
	volumes map[string]bool
}

func (n *nothing) Activated(context.Context) {}

func (n *nothing) Create(_ context.Context, ref dataset.Reference, _ map[string]string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.volumes[ref.Spelling] = true
	return nil
}

func (n *nothing) Remove(_ context.Context, ref dataset.Reference) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.volumes, ref.Spelling)
	return nil
}

func (n *nothing) Get(_ context.Context, ref dataset.Reference) (plugin.Volume, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.volumes[ref.Spelling] {
		return plugin.Volume{}, dataset.ErrNotFound
	}
	return plugin.Volume{Spelling: ref.Spelling}, nil
}

func (n *nothing) Mount(context.Context, dataset.Reference, string) (string, error) { return "/", nil }
func (n *nothing) Unmount(context.Context, dataset.Reference, string) error         { return nil }
func (n *nothing) List(context.Context) ([]plugin.Volume, error)                    { return nil, nil }
func (n *nothing) Path(context.Context, dataset.Reference) (string, error)          { return "/", nil }
func (n *nothing) Help(context.Context) string                                      { return "" }

// serveNothing serves such an agent with the same server as Drover's, and returns the name of its driver.
func serveNothing(b *testing.B) string {
	b.Helper()
	driver := engine.DriverName()
	l, err := net.Listen("unix", filepath.Join("/run/docker/plugins", driver+".sock"))
	require.NoError(b, err)
	s := plugin.New(&nothing{volumes: map[string]bool{}}, plugin.Options{})
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	b.Cleanup(func() {
		err := s.Shutdown(context.Background())
		if serr := <-served; !errors.Is(serr, http.ErrServerClosed) {
			err = errors.Join(err, serr)
		}
		assert.NoError(b, err)
	})
	return driver
}
