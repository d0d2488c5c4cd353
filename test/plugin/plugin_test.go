// Package plugin shows how a real engine reacts to the plugin's answers, with an agent that fails on demand.
package plugin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/socket"
	"github.com/droverhq/drover/plugin"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/require"
)

func TestMain(m *testing.M) { engine.Main(m) }

// agent has every volume that was created, all in one folder, and fails on demand.
type agent struct {
	dir string

	mu      sync.Mutex
	volumes map[string]bool
	fail    map[string]error // by call
	calls   map[string]int   // since the last call of set
	creates []string         // the names in Create calls, with their options
}

func (a *agent) set(call string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fail = map[string]error{call: err}
	a.calls = map[string]int{}
}

// asked returns how often a call arrived since the last call of set.
func (a *agent) asked(call string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.calls[call]
}

func (a *agent) do(call string, f func()) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls[call]++
	if err := a.fail[call]; err != nil {
		return err
	}
	f()
	return nil
}

func (a *agent) Activated(context.Context) {}
func (a *agent) Create(_ context.Context, ref dataset.Reference, opts map[string]string) error {
	return a.do("Create", func() {
		a.volumes[ref.Spelling] = true
		a.creates = append(a.creates, fmt.Sprint(ref.Spelling, " ", opts))
	})
}
func (a *agent) Remove(_ context.Context, ref dataset.Reference) error {
	return a.do("Remove", func() { delete(a.volumes, ref.Spelling) })
}
func (a *agent) Mount(context.Context, dataset.Reference, string) (string, error) {
	return a.dir, a.do("Mount", func() {})
}
func (a *agent) Unmount(context.Context, dataset.Reference, string) error {
	return a.do("Unmount", func() {})
}
func (a *agent) Path(context.Context, dataset.Reference) (string, error) { return a.dir, nil }
func (a *agent) Help(context.Context) string                             { return "options:\n  size=SIZE\n" }

func (a *agent) List(context.Context) (list []plugin.Volume, err error) {
	err = a.do("List", func() {
		for v := range a.volumes {
			list = append(list, plugin.Volume{Spelling: v})
		}
	})
	return list, err
}

func (a *agent) Get(_ context.Context, ref dataset.Reference) (v plugin.Volume, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls["Get"]++
	switch err := a.fail["Get"]; {
	case err != nil:
		return v, err
	case !a.volumes[ref.Spelling]:
		return v, dataset.Errorf(dataset.ErrNotFound, "no such volume: %s", ref)
	}
	return plugin.Volume{Spelling: ref.Spelling, Mountpoint: a.dir, CreatedAt: time.Unix(1e9, 0), Status: map[string]any{"size": 5}}, nil
}

// serve starts the plugin with a separate driver name, and then an engine.
func serve(t *testing.T) (*agent, *engine.Engine, string) {
	t.Helper()
	a := &agent{dir: t.TempDir(), volumes: map[string]bool{}, calls: map[string]int{}}
	driver := engine.DriverName()
	l, err := socket.Listen(t.Context(), filepath.Join("/run/docker/plugins", driver+".sock"), "")
	require.NoError(t, err)
	s := plugin.New(a, plugin.Options{})
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		assert.NoError(t, s.Shutdown(ctx))
		assert.ErrorIs(t, <-served, http.ErrServerClosed)
	})
	return a, engine.Start(t, engine.Options{}), driver
}

// TestI7GetThatKnowsNothing: if the agent cannot say whether a volume exists, the engine keeps its record of the
// volume, with labels and users, and does not wait. If the volume certainly does not exist, the engine forgets both,
// so the agent must not say that in the first case.
func TestI7GetThatKnowsNothing(t *testing.T) {
	a, e, driver := serve(t)
	e.Must(t, "volume", "create", "--driver", driver, "--label", "team=a", "db")
	e.Must(t, "create", "--name", "user", "--volume", "db:/data:nocopy", "drover-redis")

	for _, err := range []error{
		errors.New("the cache cannot be read"), dataset.Errorf(dataset.ErrUnavailable, "control is unreachable"),
	} {
		a.set("Get", err)
		for range 3 {
			if r := e.Docker(t, "volume", "inspect", "db"); r.Exit == 0 || strings.Contains(strings.ToLower(r.Stderr), "no such volume") {
				t.Errorf("inspect: %s", r)
			}
		}
		if n := a.asked("Get"); n != 3 {
			t.Errorf("3 inspects came to %d Gets", n)
		}
	}
	a.set("", nil)
	if got := e.Must(t, "volume", "inspect", "--format", "{{.Labels}}", "db"); got != "map[team:a]" {
		t.Errorf("labels after it: %s", got)
	}
	if r := e.Docker(t, "volume", "rm", "db"); !strings.Contains(r.Stderr, "volume is in use") {
		t.Errorf("rm after it: %s", r)
	}

	a.set("Get", dataset.Errorf(dataset.ErrNotFound, "no such volume: db"))
	if r := e.Docker(t, "volume", "inspect", "db"); !strings.Contains(strings.ToLower(r.Stderr), "no such volume") {
		t.Errorf("inspect of none: %s", r)
	}
	if n := a.asked("Get"); n != 1 {
		t.Errorf("an inspect of none came to %d Gets", n)
	}
	a.set("", nil)
	if got := e.Must(t, "volume", "inspect", "--format", "{{.Labels}}", "db"); got != "map[]" {
		t.Errorf("labels after none: %s", got)
	}
}

// TestTexts: every command shows errors as the agent wrote them, after the name of the call.
func TestTexts(t *testing.T) {
	a, e, driver := serve(t)
	unknown := dataset.Errorf(dataset.ErrInvalid, `unknown profile "glod" (available: bronze, gold, silver)`)
	a.set("Create", unknown)
	for i, args := range [][]string{
		{"volume", "create", "--driver", driver, "db@glod"},
		{"run", "--volume-driver", driver, "--volume", "db@glod:/data", "drover-redis", "true"},
	} {
		if r := e.Docker(t, args...); r.Exit == 0 || !strings.Contains(r.Stderr, `db@glod: VolumeDriver.Create: drover: unknown profile "glod" (available: bronze, gold, silver)`) {
			t.Errorf("%v: %s", args, r)
		}
		if n := a.asked("Create"); n != i+1 {
			t.Errorf("%v: Create came %d times after a refusal, want once", args, n-i)
		}
	}
	// With control unreachable and a name that the engine does not know, it continues from Get to Create, and reports
	// why (B5).
	away := dataset.Errorf(dataset.ErrUnavailable, "control service is away")
	a.mu.Lock()
	a.fail = map[string]error{"Get": away, "Create": away}
	a.mu.Unlock()
	if r := e.Docker(t, "volume", "create", "--driver", driver, "db"); !strings.Contains(r.Stderr, "create db: VolumeDriver.Create: drover: control service is away") {
		t.Errorf("control away: %s", r)
	}
	a.set("", nil)
	if r := e.Docker(t, "volume", "create", "--driver", driver, "--opt", "help", "x1"); !strings.Contains(r.Stderr, "VolumeDriver.Create: drover: options:\n  size=SIZE\n") {
		t.Errorf("help: %s", r)
	}
	e.Must(t, "volume", "create", "--driver", driver, "db")
	a.set("Mount", dataset.Errorf(dataset.ErrInUse, "volume db is in use on host-b"))
	if r := e.Docker(t, "run", "--volume", "db:/data", "drover-redis", "true"); !strings.Contains(r.Stderr, "VolumeDriver.Mount: drover: volume db is in use on host-b") {
		t.Errorf("mount: %s", r)
	}
	a.set("Remove", dataset.Errorf(dataset.ErrProtected, "volume db is protected"))
	if r := e.Docker(t, "volume", "rm", "db"); !strings.Contains(r.Stderr, "remove db: VolumeDriver.Remove: drover: volume db is protected") {
		t.Errorf("remove: %s", r)
	}
}

// TestOptionsComeOnce: the engine sends options only with the Create of a new name. For an existing volume it sends
// Get and then Mount, both without options. So a plugin cannot know that another size is wanted, as
// docs/operations.md says.
func TestOptionsComeOnce(t *testing.T) {
	a, e, driver := serve(t)
	create := func(name, size string) {
		t.Helper()
		e.Must(t, "volume", "create", "--driver", driver, "--opt", "size="+size, name)
	}
	create("db", "1GiB")
	a.wantCreates(t, "db map[size:1GiB]")

	create("db", "2GiB")
	e.Must(t, "run", "--rm", "--mount", "type=volume,source=db,target=/data,volume-driver="+driver+",volume-opt=size=3GiB", "drover-redis", "true")
	e.Restart(t)
	create("db", "4GiB")
	a.wantCreates(t, "db map[size:1GiB]")
	if got := e.Must(t, "volume", "inspect", "--format", "{{.Options}}", "db"); got != "map[size:1GiB]" {
		t.Errorf("the engine shows the options %s, want those of the first create", got)
	}

	// The same holds for an engine that does not know the volume, such as the engine of another node.
	a.mu.Lock()
	a.volumes["moved"] = true
	a.mu.Unlock()
	create("moved", "2GiB")
	a.wantCreates(t, "db map[size:1GiB]")
}

// wantCreates fails unless exactly these Creates arrived, with their options.
func (a *agent) wantCreates(t *testing.T, want ...string) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if !slices.Equal(a.creates, want) {
		t.Errorf("Creates that came: %q, want %q", a.creates, want)
	}
}
