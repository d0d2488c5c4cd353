package product

import (
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/docker/go-plugins-helpers/volume"

	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
)

// refuser is another volume driver. It refuses to mount on demand.
type refuser struct {
	at      string // the volumes that it mounted
	refuses atomic.Bool
}

func (r *refuser) Create(*volume.CreateRequest) error   { return nil }
func (r *refuser) Remove(*volume.RemoveRequest) error   { return nil }
func (r *refuser) Unmount(*volume.UnmountRequest) error { return nil }

func (r *refuser) Mount(*volume.MountRequest) (*volume.MountResponse, error) {
	if r.refuses.Load() {
		return nil, errors.New("this driver refuses to mount")
	}
	return &volume.MountResponse{Mountpoint: r.at}, nil
}

func (r *refuser) Path(*volume.PathRequest) (*volume.PathResponse, error) {
	return &volume.PathResponse{Mountpoint: r.at}, nil
}

func (r *refuser) Get(q *volume.GetRequest) (*volume.GetResponse, error) {
	return &volume.GetResponse{Volume: &volume.Volume{Name: q.Name, Mountpoint: r.at}}, nil
}

func (r *refuser) List() (*volume.ListResponse, error) { return &volume.ListResponse{}, nil }

func (r *refuser) Capabilities() *volume.CapabilitiesResponse {
	return &volume.CapabilitiesResponse{Capabilities: volume.Capability{Scope: "local"}}
}

// newRefuser serves a refuser as driver refuser until the test ends.
func newRefuser(t *testing.T) *refuser {
	t.Helper()
	r := &refuser{at: t.TempDir()}
	socket, err := net.Listen("unix", "/run/docker/plugins/refuser.sock")
	if err != nil {
		t.Fatal(err)
	}
	handler := volume.NewHandler(r)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = handler.Serve(socket) // ends with its listener
	}()
	t.Cleanup(func() {
		_ = socket.Close()
		<-done
	})
	return r
}

// TestI9FailedCp: docker cp fails because another driver refuses a volume of the same container. The container loses
// nothing. Its volume is neither removed nor restored until the container ends, and is free then. The engine mounts
// in any order, so in half of the cases it has not mounted this volume when it fails.
func TestI9FailedCp(t *testing.T) {
	other := newRefuser(t)
	w := begin(t, host.Options{}, engine.Options{})
	w.docker(t, "volume", "create", "--driver", "refuser", "beside")
	w.command(t, "one", "live@gold", ticking, "--hostname", "one", "--mount", "type=volume,source=beside,target=/beside")
	w.awaitMore(t, "one", "/data/one")
	w.drover(t, "snapshot", "create", "live", "--name", "before")
	other.refuses.Store(true)
	for range 12 {
		r := w.e.Docker(t, "cp", "one:/data/one", filepath.Join(t.TempDir(), "out"))
		if r.Exit == 0 || !strings.Contains(r.Stderr, "refuses to mount") {
			t.Errorf("docker cp: exit status %d: %s", r.Exit, r.Stderr)
		}
	}
	other.refuses.Store(false)
	w.wantInUse(t, "live", "one")
	w.docker(t, "stop", "one")
	w.awaitUnused(t, "live@gold")
	w.drover(t, "snapshot", "restore", "live", "before")
}
