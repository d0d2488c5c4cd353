package operation_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/scratch"
)

// An import that does not fit in an overcommitted pool ends before it fills the pool, because the writers of other
// volumes would lose what they have not synced.
func TestImportDoesNotFillPool(t *testing.T) {
	r := newLoopHost(t, 4)
	r.NewVolume("other", map[string]string{"size": "600MiB"})
	f, err := os.Create(filepath.Join(r.MustMount("other", "user"), "f"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(bytes.Repeat([]byte("x"), 400<<20))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
	p, _ := r.Pools.ByName("default")
	free := func() dataset.Size {
		st, err := r.Pools.ReadStatus(t.Context(), p.ID)
		if err != nil {
			t.Fatal(err)
		}
		return st.Free
	}
	before := free()
	least := before
	const size = 700 << 20
	var head bytes.Buffer
	w := tar.NewWriter(&head)
	if err := w.WriteHeader(&tar.Header{Name: "f", Typeflag: tar.TypeReg, Mode: 0o600, Size: size}); err != nil {
		t.Fatal(err)
	}
	content := readerFunc(func(b []byte) (int, error) {
		least = min(least, free())
		for i := range b {
			b[i] = 'x'
		}
		return len(b), nil
	})
	archive := io.MultiReader(&head, io.LimitReader(content, size), bytes.NewReader(make([]byte, 1024)))
	_, err = r.Import(t.Context(), api.Request{Volume: "db", Options: map[string]string{"size": "900MiB"}}, archive)
	if !errors.Is(err, dataset.ErrNoSpace) || !strings.Contains(err.Error(), "would be free in its pool") {
		t.Errorf("import: %v", err)
	}
	if least = min(least, free()); least < 8*dataset.MiB {
		t.Errorf("%s were free meanwhile, of %s before", least.Human(), before.Human())
	}
	if _, there := r.Cache.Volume("db"); there {
		t.Error("the volume exists")
	}
}

// An import of many files without bytes leaves the other volumes of a pool inodes for theirs.
func TestImportLeavesInodes(t *testing.T) {
	const inodes = 2048
	disk := scratch.Image(t, "ext4", 64<<20)
	scratch.Run(t, "mkfs.ext4", "-q", "-F", "-b", "4096", "-N", strconv.Itoa(inodes), disk)
	at := scratch.MountImage(t, "ext4", disk)
	r := agenttest.New(t, func(c *agent.Config) {
		c.Backends = backends.NewRegistry(dir.Backend{})
		c.Pools = []pool.Config{{Name: "default", Backend: "dir", Path: filepath.Join(at, "pool")}}
	})
	r.NewVolume("other")
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for i := range inodes {
		if err := w.WriteHeader(&tar.Header{Name: strconv.Itoa(i), Typeflag: tar.TypeReg, Mode: 0o600}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := r.Import(t.Context(), api.Request{Volume: "db"}, &archive)
	if !errors.Is(err, dataset.ErrNoSpace) || !strings.Contains(err.Error(), "has hardly any inodes left") {
		t.Errorf("import: %v", err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }
