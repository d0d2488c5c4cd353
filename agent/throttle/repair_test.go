package throttle_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/throttle"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/linux/iolimit"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// A limit was left on a device number that now belongs to another limited volume. The next start removes it from the
// groups that the new limit does not name.
func TestLeftoverLimitOnReusedDeviceNumber(t *testing.T) {
	f := limitedBy(t, files(t, iolimit.V1, "/", "/before"))
	h := f.A.Throttle.Hierarchy
	d := f.A.NewVolume("db@slow", nil)
	f.A.MustMount("db", "one")
	dev, old := device(f.A, d), iolimit.Limits{WriteBPS: 3 << 20}
	require.NoError(t, h.Set("/before", dev, old))
	key := "limits/" + uuid.NewString()
	rec := throttle.LimitRecord{Boot: f.A.Boot, Device: dev, Limits: old, Groups: []string{iolimit.Root, "/before"}}
	require.NoError(t, f.A.DB.Put(t.Context(), map[string]any{key: rec}))
	f.A.Restart()
	if got, err := h.Get("/before", dev); err != nil || got != (iolimit.Limits{}) {
		t.Errorf("a group that it does not name: %+v, %v", got, err)
	}
	wantTold(f.A, dev, slowly, "one that it names")
	if left, err := f.A.DB.Get(t.Context(), key, &rec); left || err != nil {
		t.Errorf("its record is left: %t, %v", left, err)
	}
	f.A.MustUnmount("db", "one")
}

// busy is a pool that freezes for its snapshots, one snapshot at a time.
type busy struct {
	backends.Pool
	turn, done func()
	err        error
}

type inTurn struct{}

func (b *busy) Info() backends.Info { return backends.Info{Exact: true} }

func (b *busy) Lock(ctx context.Context) (context.Context, func(), error) {
	b.turn()
	return context.WithValue(ctx, inTurn{}, true), b.done, b.err
}

// The limit of a volume is not lifted while its snapshot waits for its turn in the pool. The snapshot keeps the turn
// until the limit is restored.
func TestLimitIsLiftedAfterWaitingForPool(t *testing.T) {
	f := limitFlock(t)
	d := f.A.NewVolume("db@slow", nil)
	f.A.MustMount("db", "one")
	dev := device(f.A, d)
	var order []string
	pool := &busy{
		turn: func() { order = append(order, "turn"); wantTold(f.A, dev, slowly, "waiting for its turn") },
		done: func() { order = append(order, "done"); wantTold(f.A, dev, slowly, "its turn is over") },
	}
	in, end, err := f.A.Quiescer.Prepare(t.Context(), pool, d)
	if err != nil || in.Value(inTurn{}) == nil || len(order) != 1 {
		t.Fatal(err, order)
	}
	wantTold(f.A, dev, iolimit.Limits{}, "frozen")
	if end(); len(order) != 2 {
		t.Error(order)
	}
	pool.err = errors.New("a command is late")
	if _, _, err = f.A.Quiescer.Prepare(t.Context(), pool, d); !errors.Is(err, pool.err) || len(order) != 3 {
		t.Error(err, order)
	}
	wantTold(f.A, dev, slowly, "it got no turn")
	f.A.MustUnmount("db", "one")
}

// A volume that is used in a control group to which the controller is not delegated has no limit there. Doctor and
// its status report that for as long as it lasts, strict or not, and the group is not changed.
func TestLimitInCgroupWithoutController(t *testing.T) {
	name := "drover-test-" + uuid.NewString()
	real := filepath.Join("/sys/fs/cgroup/unified", name)
	require.NoError(t, os.Mkdir(real, 0o755))
	into, err := os.Open(real)
	require.NoError(t, err)
	defer into.Close()
	h := files(t, iolimit.V2, "/", "system.slice", "docker")
	f := limitedBy(t, h)
	d := f.A.NewVolume("db@slow", nil)
	path := f.A.MustMount("db", "one")
	dev := device(f.A, d)
	cmd := exec.Command("sh", "-c", `mount --bind "$0" "$1" && exec sleep infinity`, path, t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL, UseCgroupFD: true, CgroupFD: int(into.Fd())}
	require.NoError(t, errors.Join(os.Mkdir(filepath.Join(h.Dir, name), 0o755), cmd.Start()))
	end := sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		assert.NoError(t, os.Remove(real))
	})
	t.Cleanup(end)
	out := "it is not throttled in control group /" + name
	said := func() bool { return strings.Contains(f.A.Status.Status(t.Context(), d).Problem, out) }
	f.AwaitNamed("said", said)
	if !hasFinding(f.A, out) {
		t.Error("doctor does not say so")
	}
	if b, err := os.ReadFile(filepath.Join(h.Dir, "cgroup.subtree_control")); err != nil || len(b) > 0 {
		t.Errorf("the controller was handed down: %q, %v", b, err)
	}
	// As the kernel does when somebody delegates it.
	require.NoError(t, os.WriteFile(filepath.Join(h.Dir, name, "io.max"), nil, 0o600))
	f.AwaitNamed("limited", func() bool { got, err := h.Get("/"+name, dev); return err == nil && got == slowly })
	if said() || hasFinding(f.A, out) {
		t.Error("it is said still")
	}
	end()
	f.A.MustUnmount("db", "one")
}

// If the kernel cannot attribute delayed writes to a group, no limit is promised for them.
func TestLimitWithoutMemory(t *testing.T) {
	h := files(t, iolimit.V2, "/", "system.slice", "docker")
	require.NoError(t, os.WriteFile(filepath.Join(h.Dir, "cgroup.controllers"), []byte("cpu io pids"), 0o600))
	f := limitedBy(t, h)
	assert.ErrorIsf(t, f.A.Create(t.Context(), "db@slow", nil), dataset.ErrUnsupported, "made")
	if !hasFinding(f.A, "has the controller io without memory") {
		t.Error("doctor does not say so")
	}
}

// A limit is not removed while the guard fences its volume, because the guard restores what it lifted.
func TestLimitIsNotRemovedDuringFence(t *testing.T) {
	f, says := toldFlock(t)
	d, held := guarded(f, "db")
	dev, free := device(f.A, d), held
	free.Profile.QoS = dataset.QoS{}
	f.A.Leases.Deadlines.SetRegistered(d.ID, d.Epoch)
	heldUntil(f, held, f.A.Clock.Steady()+time.Hour)
	// Otherwise the keeper sets the limit of the recorded profile.
	unlock, err := f.A.Locks.Lock(t.Context(), d.ID, "limit")
	require.NoError(t, err)
	says.say(d.ID, guard.StateFencing)
	assert.ErrorIsf(t, f.A.Throttle.Limit(t.Context(), free), dataset.ErrPending, "fencing")
	wantTold(f.A, dev, slowly, "fencing")
	f.A.Cache.Apply(free, 0) // otherwise the keeper would set the limit again
	says.say(d.ID, guard.StateArmed)
	assert.NoError(t, f.A.Throttle.Limit(t.Context(), free))
	wantTold(f.A, dev, iolimit.Limits{}, "thawed")
	unlock()
	f.A.Leases.Deadlines.ClearRegistered(d.ID)
	f.A.Cache.Apply(d, 0)
	f.A.MustUnmount("db", "one")
}

// A guard that does not answer is asked once at a start, however many limited volumes it may have.
func TestGuardIsAskedOnceForAllLimits(t *testing.T) {
	f, says := toldFlock(t)
	const volumes = 4
	for i := range volumes {
		name := fmt.Sprint("db", i)
		d, _ := guarded(f, name)
		// Otherwise profiles are checked, which asks the guard too.
		unlock, err := f.A.Locks.Lock(t.Context(), d.ID, "test")
		require.NoError(t, err)
		defer func() {
			f.A.Cache.Apply(d, 0)
			unlock()
			f.A.MustUnmount(name, "one")
		}()
	}
	asked := func() (n int) {
		says.mu.Lock()
		defer says.mu.Unlock()
		n, says.asked = says.asked, 0
		return n
	}
	says.say(uuid.New(), "")
	asked()
	require.NoError(t, f.A.Throttle.Load(t.Context()))
	// Other parts of the agent ask the guard less often.
	if n := asked(); n == 0 || n >= volumes {
		t.Errorf("the guard was asked %d times for %d volumes", n, volumes)
	}
	says.say(uuid.Nil, "")
}
