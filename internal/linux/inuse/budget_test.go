package inuse

import (
	"errors"
	"fmt"
	"os/exec"
	"testing"

	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// Many processes that are just below the limit of one process do not delay a look for long.
func TestBudget(t *testing.T) {
	const processes, all, each, fair, step = 10_000, 50_000, 1024, 64, 16
	b := NewBudget(all+processes*fair, each, fair)
	work := 0
	for i := range processes {
		done := 0
		var err error
		for done < each && err == nil {
			done, work = done+step, work+step
			err = b.spend(done, step)
		}
		if err != nil && !errors.Is(err, ErrBudget) || done < fair {
			t.Fatalf("process %d, %d units: %v", i, done, err)
		}
	}
	if most := all + processes*(2*fair+step); work > most {
		t.Errorf("%d units of work, want at most %d", work, most)
	}
	assert.ErrorIsf(t, NewBudget(all, each, fair).spend(each+1, 1), ErrTooMuch, "a process beyond its limit")
}

// All small tables together are read only up to a limit, and the read of a table can be ended.
func TestTablesAreRead(t *testing.T) {
	cmd := exec.Command("unshare", "--mount", "sh", "-c", "echo ready; exec cat")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	at := fmt.Sprintf("/proc/%d", cmd.Process.Pid)
	enough := errors.New("enough")
	always, never := func(int) error { return nil }, func(int) error { return enough }
	for name, c := range map[string]struct {
		read func(*Scan) (*View, error)
		want error
	}{
		"small": {func(s *Scan) (*View, error) { return s.SmallTableOf(at) }, nil},
		"small, after many": {
			func(s *Scan) (*View, error) { s.listed.Store(listedTables); return s.SmallTableOf(at) }, ErrLargeTable,
		},
		"small, after it was too large": {func(s *Scan) (*View, error) {
			s.listed.Store(listedTables)
			_, _ = s.SmallTableOf(at)
			s.listed.Store(0)
			return s.SmallTableOf(at)
		}, ErrLargeTable},
		"whatever its size": {func(s *Scan) (*View, error) {
			s.listed.Store(listedTables)
			_, _ = s.SmallTableOf(at)
			return s.TableOf(at, always)
		}, nil},
		"ended": {func(s *Scan) (*View, error) { return s.TableOf(at, never) }, enough},
	} {
		t.Run(name, func(t *testing.T) {
			own, err := mount.Table()
			require.NoError(t, err)
			s, err := NewScan(own)
			require.NoError(t, err)
			if v, err := c.read(s); !errors.Is(err, c.want) || (v == nil) != (c.want != nil) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
	x := &Examination{tables: mount.MaxTable - 1}
	assert.NoError(t, x.endTableChunk(1))
	assert.ErrorIsf(t, x.endTableChunk(1), errTables, "tables without bound")
}
