package fsctl_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/require"
)

// While a file with holes is cloned that is larger than the free space, statfs(2) reports for moments that nothing is
// free.
func TestSpaceBesideClones(t *testing.T) {
	t.Parallel()
	dir := scratch.Mount(t, "xfs", 1<<30)
	source, err := os.Create(filepath.Join(dir, "source"))
	if err == nil {
		_, err = source.WriteAt([]byte("end"), 10<<30)
	}
	require.NoError(t, err)
	defer source.Close()
	var cloning sync.WaitGroup
	defer cloning.Wait()
	end := make(chan struct{})
	defer close(end)
	cloning.Go(func() {
		for {
			select {
			case <-end:
				return
			default:
			}
			to, err := os.Create(filepath.Join(dir, "clone"))
			if err == nil {
				err = errors.Join(unix.IoctlFileClone(int(to.Fd()), int(source.Fd())), to.Close())
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	dips := 0
	for range 20_000 {
		var st unix.Statfs_t
		free, size, err := fsctl.Space(dir)
		if err == nil {
			err = unix.Statfs(dir, &st)
		}
		require.NoError(t, err)
		if int64(st.Bavail) < int64(st.Blocks/2) {
			dips++
		}
		if free < size/2 {
			t.Fatalf("%d bytes free of %d", free, size)
		}
	}
	t.Logf("statfs(2) said too little %d times", dips)
}
