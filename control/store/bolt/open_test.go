package bolt_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"
	"go.uber.org/goleak"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/control/store/storetest"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/require"
)

func TestReopen(t *testing.T) {
	path := pathIn(t.TempDir())
	s := open(t, path)
	put(t, s, set("a/1", "x"), set("a/2", "y"))
	last := put(t, s, store.Write{Key: "a/1", Delete: true}, set("a/3", "z"))
	want, stats := all(t, s), s.Stats()
	if stats.Entries != 2 || stats.Commits != 2 || stats.Txns != 2 || stats.ReserveBytes == 0 {
		t.Errorf("%+v", stats)
	}
	shut(t, s)
	shut(t, s)
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}

	if err := os.Chmod(path, 0o644); err != nil { // as for a backup that was copied back
		t.Fatal(err)
	}
	s = open(t, path)
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("others can open the store: %v, %v", info.Mode(), err)
	}
	if diff := cmp.Diff(want, all(t, s)); diff != "" {
		t.Error(diff)
	}
	if stats := s.Stats(); stats.Entries != 2 || stats.Damaged != 0 || stats.FileBytes != info.Size() {
		t.Errorf("%+v", stats)
	}
	// Watchers from before continue: a change that they saw is not reported again to those with the newest index, and
	// is reported to the others.
	for after := range last {
		if index, err := s.Watch(t.Context(), "a/", after); err != nil || index != last {
			t.Errorf("watch after %d: %d, %v", after, index, err)
		}
	}
	if next := put(t, s, set("b", "x")); next <= last {
		t.Errorf("index %d after %d", next, last)
	}
}

// A watcher may have an index from an earlier file, as after a restore from a backup. It does not wait for an index
// that may never be reached.
func TestWatchAfterOlderFile(t *testing.T) {
	s := open(t, pathIn(t.TempDir()))
	last := put(t, s, set("a/1", "x"))
	if index, err := s.Watch(t.Context(), "a/", last+1000); err != nil || index != last {
		t.Errorf("%d, %v; want %d", index, err, last)
	}
}

func TestSecondProcessIsToldWhoHasIt(t *testing.T) {
	path := pathIn(t.TempDir())
	s := open(t, path)
	_, err := bolt.Open(t.Context(), path, bolt.Options{Clock: newClock()})
	if !errors.Is(err, dataset.ErrInUse) || !strings.Contains(err.Error(), fmt.Sprintf("another drover, process %d:", os.Getpid())) {
		t.Errorf("got %v", err)
	}
	shut(t, s)
	shut(t, open(t, path))
}

func TestWhatIsNoStore(t *testing.T) {
	for name, c := range map[string]struct {
		make func(t *testing.T, path string) error
		want *dataset.Kind
		say  string
	}{
		"text": {func(_ *testing.T, p string) error {
			return os.WriteFile(p, bytes.Repeat([]byte("no store\n"), 9000), 0o600)
		}, dataset.ErrCorrupt, "drover store recover --from-pools"},
		"short": {func(_ *testing.T, p string) error { return os.WriteFile(p, []byte("x"), 0o600) }, dataset.ErrCorrupt, "it ends after 1 bytes"},
		"zeros": {func(_ *testing.T, p string) error { return os.WriteFile(p, make([]byte, 1<<20), 0o600) }, dataset.ErrCorrupt, "invalid database"},
		"another's buckets": {func(t *testing.T, p string) error {
			return edit(t, p, func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("theirs")); return err })
		}, dataset.ErrCorrupt, "other buckets"},
		"newer": {func(t *testing.T, p string) error {
			shut(t, open(t, p))
			return edit(t, p, func(tx *bbolt.Tx) error { return tx.Bucket([]byte("meta")).Put([]byte("schema"), []byte("2")) })
		}, dataset.ErrUnsupported, "newer drover (schema 2, this one reads up to 1)"},
		"cut off": {func(t *testing.T, p string) error {
			s := open(t, p)
			for n := range 100 {
				put(t, s, set(fmt.Sprint("k", n), strings.Repeat("x", 1000)))
			}
			shut(t, s)
			return os.Truncate(p, 5*4096)
		}, dataset.ErrCorrupt, "may have been cut off"},
		"cut off in free pages": {func(t *testing.T, p string) error {
			s := open(t, p)
			put(t, s, set("a", strings.Repeat("x", 100_000)))
			put(t, s, store.Write{Key: "a", Delete: true})
			shut(t, s)
			return os.Truncate(p, 6*4096)
		}, dataset.ErrCorrupt, "it was cut off"},
		"index gone back": {func(t *testing.T, p string) error {
			s := open(t, p)
			put(t, s, set("a", "x"))
			shut(t, s)
			return edit(t, p, func(tx *bbolt.Tx) error { return tx.Bucket([]byte("meta")).Put([]byte("index"), make([]byte, 8)) })
		}, dataset.ErrCorrupt, "a has index 1, of 0"},
		"a folder":  {func(_ *testing.T, p string) error { return os.Mkdir(p, 0o700) }, nil, "directory"},
		"a symlink": {func(_ *testing.T, p string) error { return os.Symlink("/etc/passwd", p) }, nil, "symbolic links"},
		"a fifo":    {func(_ *testing.T, p string) error { return exec.Command("mkfifo", p).Run() }, nil, "regular"},
	} {
		t.Run(name, func(t *testing.T) {
			path := pathIn(t.TempDir())
			require.NoError(t, c.make(t, path))
			before := content(path)
			s, err := bolt.Open(t.Context(), path, bolt.Options{Clock: newClock()})
			if err == nil {
				shut(t, s)
				t.Fatal("it was opened")
			}
			if c.want != nil && dataset.KindOf(err) != c.want || !strings.Contains(err.Error(), c.say) || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v", err)
			}
			if !bytes.Equal(before, content(path)) {
				t.Error("the file was changed")
			}
			// Nothing holds the file, so the fault can be mended at once.
			require.NoError(t, os.RemoveAll(path))
			shut(t, open(t, path))
		})
	}
}

// content returns the contents of a regular file; reading a fifo would never end.
func content(path string) []byte {
	if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() {
		return nil
	}
	b, _ := os.ReadFile(path)
	return b
}

// edit changes a file without the store's knowledge.
func edit(t *testing.T, path string, fn func(*bbolt.Tx) error) error {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{PageSize: 4096})
	if err != nil {
		return err
	}
	return errors.Join(db.Update(fn), db.Close())
}

// A process that was killed right after it made the file leaves an empty file, or one that bbolt has begun.
func TestInterruptedFirstStart(t *testing.T) {
	for name, make := range map[string]func(string) error{
		"empty": func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"begun": func(p string) error { return edit(t, p, func(*bbolt.Tx) error { return nil }) },
	} {
		path := filepath.Join(t.TempDir(), name)
		require.NoError(t, make(path))
		s := open(t, path)
		put(t, s, set("a", "x"))
		shut(t, s)
		if list := all(t, open(t, path)); len(list) != 1 {
			t.Errorf("%s: %v", name, list)
		}
	}
}

// A damaged value is never taken for absent, affects no other value, and can be overwritten and deleted.
func TestDamagedValue(t *testing.T) {
	path := pathIn(t.TempDir())
	s := open(t, path)
	put(t, s, set("a/1", "good"), set("a/2", "bad"), set("a/3", "bad"), set("b/1", "good"))
	shut(t, s)
	if err := edit(t, path, func(tx *bbolt.Tx) error {
		data := tx.Bucket([]byte("data"))
		for _, k := range []string{"a/2", "a/3"} {
			v := bytes.Clone(data.Get([]byte(k)))
			v[len(v)-1] ^= 1
			if err := data.Put([]byte(k), v); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	if n := s.Stats().Damaged; n != 2 {
		t.Errorf("%d damaged", n)
	}
	_, getErr := s.Get(t.Context(), "a/2")
	_, listErr := s.List(t.Context(), "a/", "", 0)
	_, checkErr := s.Txn(t.Context(), []store.Precondition{{Key: "a/2", Index: 1}}, []store.Write{set("c", "x")})
	for what, err := range map[string]error{"get": getErr, "list": listErr, "check": checkErr} {
		if !errors.Is(err, dataset.ErrCorrupt) || !strings.Contains(err.Error(), `"a/2"`) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := s.Get(t.Context(), "c"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a transaction on a damaged value changed something: %v", err)
	}
	put(t, s, set("a/2", "new"), store.Write{Key: "a/3", Delete: true})
	if list := all(t, s); len(list) != 3 || string(list[1].Value) != "new" {
		t.Errorf("%v", list)
	}
}

// Keys that were bound to a session of a process are gone when the next process opens the file.
func TestSessionsEndWithTheProcess(t *testing.T) {
	path := pathIn(t.TempDir())
	s := open(t, path)
	id, err := s.Session(t.Context(), time.Minute)
	require.NoError(t, err)
	last := put(t, s, store.Write{Key: "live/1", Value: []byte("x"), Session: id}, store.Write{Key: "live/2", Session: id}, set("b/3", "x"))
	shut(t, s)

	s = open(t, path)
	list := all(t, s)
	if len(list) != 1 || list[0].Key != "b/3" || s.Stats().Entries != 1 {
		t.Errorf("%v, %+v", list, s.Stats())
	}
	if index, err := s.Watch(t.Context(), "live/", last); err != nil || index <= last {
		t.Errorf("their end woke no watcher: %d, %v", index, err)
	}
	assert.ErrorIs(t, s.Renew(t.Context(), id), store.ErrNotFound)
	assert.NoError(t, s.End(t.Context(), id))
}

func TestRecordOfAnotherKey(t *testing.T) {
	path := pathIn(t.TempDir())
	s := open(t, path)
	put(t, s, set("names/a", "1"), set("names/b", "2"))
	shut(t, s)
	if err := edit(t, path, func(tx *bbolt.Tx) error {
		data := tx.Bucket([]byte("data"))
		return data.Put([]byte("names/b"), bytes.Clone(data.Get([]byte("names/a"))))
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, path).Get(t.Context(), "names/b"); !errors.Is(err, dataset.ErrCorrupt) {
		t.Error("a value under another's key was taken for its own:", err)
	}
}

func TestMain(m *testing.M) {
	if child() {
		return
	}
	goleak.VerifyTestMain(m)
}

// timed is a store whose session time is controlled by the test suite.
type timed struct {
	*bolt.Store
	*fakes.Clock
}

var _ storetest.Advancer = timed{}

func TestContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store {
		fake := fakes.NewClock(time.Date(2026, 11, 20, 8, 0, 0, 0, time.UTC))
		s, err := bolt.Open(t.Context(), filepath.Join(t.TempDir(), "store.db"), bolt.Options{Clock: fake})
		require.NoError(t, err)
		return timed{s, fake}
	})
}

// childEnv has the path of a store. If it is set, the test binary is a process that writes to that store until it is
// killed, and prints what was acknowledged.
const childEnv = "DROVER_TEST_BOLT_CHILD"

func child() bool {
	path := os.Getenv(childEnv)
	if path == "" {
		return false
	}
	s, err := bolt.Open(context.Background(), path, bolt.Options{Clock: clock.System{}})
	if err != nil {
		fmt.Println("error", err)
		return true
	}
	write(context.Background(), s, fmt.Sprint(os.Getpid()), func(key string) { fmt.Println("ack", key) })
	return true
}

// write writes pairs of keys from 16 callers until ctx ends or the store closes, and reports each acknowledged pair.
func write(ctx context.Context, s *bolt.Store, run string, ack func(key string)) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	for caller := range 16 {
		wg.Go(func() {
			for n := 0; ; n++ {
				key := fmt.Sprintf("%s-%d-%d", run, caller, n)
				value := strings.Repeat("v", rand.IntN(3000))
				_, err := s.Txn(ctx, []store.Precondition{{Key: "a/" + key}}, []store.Write{
					set("a/"+key, value), set("b/"+key, value), set("counter/"+fmt.Sprint(caller), fmt.Sprint(n)),
				})
				if ctx.Err() != nil || errors.Is(err, store.ErrClosed) {
					return
				}
				mu.Lock()
				if err != nil {
					ack("error " + err.Error())
				} else {
					ack(key)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

// whole opens the store and checks it against what was acknowledged: all acknowledged pairs are there, and of any
// other pair both keys or none.
func whole(t *testing.T, path string, acked []string) {
	t.Helper()
	s := open(t, path)
	defer shut(t, s)
	have := map[string]string{}
	for _, e := range all(t, s) {
		have[e.Key] = string(e.Value)
	}
	if n := s.Stats().Damaged; n != 0 {
		t.Errorf("%d values are damaged", n)
	}
	for _, key := range acked {
		if strings.HasPrefix(key, "error") {
			t.Error(key)
		}
		if _, ok := have["a/"+key]; !ok {
			t.Fatalf("%s was acknowledged and is lost", key)
		}
	}
	for key, value := range have {
		if rest, ok := strings.CutPrefix(key, "a/"); ok {
			if other, ok := have["b/"+rest]; !ok || other != value {
				t.Fatalf("half of %s is there", rest)
			}
		} else if rest, ok := strings.CutPrefix(key, "b/"); ok {
			if _, ok := have["a/"+rest]; !ok {
				t.Fatalf("half of %s is there", rest)
			}
		}
	}
}

func TestAcknowledgedSurvivesKill(t *testing.T) {
	path := pathIn(t.TempDir())
	var acked []string
	for round := range 8 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+path)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		limit := 1 + rand.IntN(600)
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			key, ok := strings.CutPrefix(lines.Text(), "ack ")
			if ok {
				acked = append(acked, key)
			}
			if n == limit {
				if err := cmd.Process.Kill(); err != nil { // SIGKILL
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil {
			t.Fatalf("round %d: the child ended by itself", round)
		}
		// The last line may have been truncated by the kill.
		if n := len(acked); n > 0 && strings.Count(acked[n-1], "-") < 2 {
			acked = acked[:n-1]
		}
		whole(t, path, acked)
	}
	if len(acked) == 0 {
		t.Error("nothing was acknowledged")
	}
	if left, err := filepath.Glob(path + "*"); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
