package operation_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
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

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }
