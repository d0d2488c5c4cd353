package bolt_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/internal/scratch"
)

// A backup that is taken while callers write is the state of the store at one moment: it can be opened, and has
// everything that was acknowledged before the backup began.
func TestBackupWhileWriting(t *testing.T) {
	dir := t.TempDir()
	s := open(t, pathIn(dir))
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var mu sync.Mutex
	var acked []string
	many := make(chan struct{})
	wg.Go(func() {
		write(ctx, s, "w", func(key string) {
			mu.Lock()
			defer mu.Unlock()
			if acked = append(acked, key); len(acked) == 200 {
				close(many)
			}
		})
	})
	<-many
	for n := range 3 {
		mu.Lock()
		before := append([]string(nil), acked...)
		mu.Unlock()
		path := filepath.Join(dir, fmt.Sprint("backup", n))
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Backup(t.Context(), f); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		whole(t, path, before)
	}
	cancel()
	wg.Wait()
	left, err := filepath.Glob(filepath.Join(dir, ".*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// A reader of the backup that accepts no bytes blocks no writers: changes continue, and the pages that they free are
// used again.
func TestSlowBackupHoldsUpNothing(t *testing.T) {
	s := open(t, pathIn(t.TempDir()))
	for n := range 200 {
		put(t, s, set(fmt.Sprint("k", n), strings.Repeat("x", 1000)))
	}
	want := all(t, s)
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := s.Backup(t.Context(), w)
		done <- errors.Join(err, w.Close())
	}()
	first := make([]byte, 1)
	if _, err := io.ReadFull(r, first); err != nil {
		t.Fatal(err)
	}
	size := s.Stats().FileBytes
	for n := range 3000 {
		put(t, s, set(fmt.Sprint("k", n%200), strings.Repeat("y", 1000)))
	}
	if grown := s.Stats().FileBytes; grown != size {
		t.Errorf("the file grew from %d to %d bytes under a slow backup", size, grown)
	}
	rest, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "backup")
	if err := os.WriteFile(path, append(first, rest...), 0o600); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, all(t, open(t, path))); diff != "" {
		t.Error(diff)
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("pipe broke") }

func TestBackupFails(t *testing.T) {
	s := open(t, pathIn(t.TempDir()))
	put(t, s, set("a", "x"))
	if err := s.Backup(t.Context(), brokenWriter{}); err == nil || !strings.Contains(err.Error(), "pipe broke") {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Backup(ctx, io.Discard); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	shut(t, s)
	if err := s.Backup(t.Context(), io.Discard); err == nil {
		t.Error("a closed store was backed up")
	}
}

// On a filesystem without O_TMPFILE the file is created with a name, which is then removed.
func TestBackupOnOverlay(t *testing.T) {
	base := tmpfs(t, 64<<20)
	for _, d := range []string{"lower", "upper", "work", "mnt"} {
		if err := os.Mkdir(filepath.Join(base, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	mnt := filepath.Join(base, "mnt")
	scratch.Run(t, "mount", "-t", "overlay", "overlay", "-o",
		fmt.Sprintf("lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work", base, base, base), mnt)
	t.Cleanup(func() { scratch.Run(t, "umount", mnt) })
	s, err := bolt.Open(t.Context(), pathIn(mnt), bolt.Options{Clock: newClock()})
	if err != nil {
		t.Fatal(err)
	}
	defer shut(t, s)
	put(t, s, set("a", "x"))
	var b bytes.Buffer
	if err := s.Backup(t.Context(), &b); err != nil || b.Len() == 0 {
		t.Errorf("%d bytes, %v", b.Len(), err)
	}
}
