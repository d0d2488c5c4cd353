package mounting_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/scratch"
)

// A mounted volume whose filesystem took no more writes says so once in the log, and in its status and
// doctor. It is not given to another container, and it can be unmounted.
func TestStoppedFilesystemIsReportedAndRefused(t *testing.T) {
	for _, fs := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(fs, func(t *testing.T) {
			device, fail := scratch.FailingDisk(t, scratch.XFS)
			scratch.Format(t, fs, device)
			r := agenttest.New(t)
			log := logtest.NewLocal(r.Agent.Log.(*logrus.Logger))
			d := r.NewVolume("db")
			r.MountDataset(d, "user")
			path := r.MountPath(d.ID)
			// Instead of the folder of the pool.
			if err := mount.Mount(path, mount.Spec{Source: device, FSType: fs}); err != nil {
				t.Fatal(err)
			}
			r.MountDataset(d, "second")
			if st := r.Status.Status(t.Context(), d); st.Problem != "" || !st.Mounted {
				t.Errorf("while its disk works: %+v", st)
			}
			file, err := os.Create(filepath.Join(path, "file"))
			if err != nil {
				t.Fatal(err)
			}
			fail()
			for range 3 { // the first write fails to write data, a later one the journal
				if _, err := file.WriteString("more"); err == nil && file.Sync() == nil {
					t.Error("written to a disk that fails")
				}
				if f, err := os.Create(filepath.Join(path, "another")); err == nil {
					_ = f.Sync()
					f.Close()
				}
			}
			file.Close()
			r.Disks.DropTable() // as after a second
			r.Status.Status(t.Context(), d)
			const want = "its filesystem is read-only since a disk error"
			if st := r.Status.Status(t.Context(), d); !strings.Contains(st.Problem, want) || !st.Mounted {
				t.Errorf("status %+v", st)
			}
			if f := r.Finding("volume db"); f.Level != host.Error || !strings.Contains(f.Text, want) {
				t.Errorf("doctor: %+v", f)
			}
			if _, err := r.Mount(t.Context(), "db", "third"); !errors.Is(err, dataset.ErrOffline) || !strings.Contains(err.Error(), want) {
				t.Errorf("a mount: %v", err)
			}
			if n := len(r.Uses.Get(d.ID).IDs); n != 2 {
				t.Errorf("%d uses are counted", n)
			}
			lines := 0
			for _, e := range log.AllEntries() {
				if strings.HasPrefix(e.Message, "volume has a disk error: "+want) {
					lines++
				}
			}
			if st := r.PoolStatus("default"); lines != 1 || !st.Online {
				t.Errorf("%d lines in the log; the pool, whose disk works: %+v", lines, st)
			}
			for _, id := range []string{"user", "second"} {
				if err := r.Unmount(t.Context(), "db", id); err != nil {
					t.Errorf("unmount: %v", err)
				}
			}
			table, err := mount.Table()
			if err != nil {
				t.Fatal(err)
			}
			if e := table.At(path); e != nil && e.Source == device {
				t.Errorf("it is mounted still: %+v", e)
			}
		})
	}
}

// A filesystem that stopped taking writes, and that nobody uses, is remounted by the next request.
func TestStoppedFilesystemIsRemounted(t *testing.T) {
	r := agenttest.New(t)
	below := scratch.Mount(t, "xfs", scratch.XFS)
	d := r.NewVolume("db")
	r.MountDataset(d, "user")
	path := r.MountPath(d.ID)
	if err := unix.Mount(below, path, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	// Like a request that gave up.
	if err := r.Uses.Save(t.Context(), d, 0, mounting.Record{Boot: r.Boot}, nil); err != nil {
		t.Fatal(err)
	}
	scratch.ShutDown(t, below)
	if _, err := r.Mount(t.Context(), "db", "next"); !errors.Is(err, unix.EIO) {
		t.Fatalf("mounted: %v", err)
	}
	r.MountDataset(d, "next")
}

// A look that fails for another reason than the disk does not say that the disk works again.
func TestUnreadableMountTableEndsNoDiskError(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	log := logtest.NewLocal(r.Agent.Log.(*logrus.Logger))
	r.Disks.Record(d, unix.EIO)
	r.Disks.Record(d, errors.New("cannot check whether its filesystem is writable"))
	r.Disks.Record(d, unix.EIO)
	var lines []string
	for _, e := range log.AllEntries() {
		if strings.HasPrefix(e.Message, "volume has ") {
			lines = append(lines, e.Message)
		}
	}
	if len(lines) != 1 {
		t.Errorf("the log has %q", lines)
	}
	r.Disks.Record(d, nil)
	if e := log.LastEntry(); e == nil || e.Message != "volume has no disk error any more" {
		t.Errorf("after a good look: %+v", e)
	}
}

// A volume can be mounted and written to again after its filesystem was shut down, although a copy of the old mount
// exists in another mount namespace. It has what was flushed.
func TestEndedFilesystemIsReplaced(t *testing.T) {
	r := agenttest.NewCluster(t, "loop", "dir").A
	r.NewVolume("db")
	path := r.MustMount("db", "user")
	r.WriteFile("db", "file", "flushed")
	end := agenttest.StartWithCopy(t)
	defer end()
	root, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := fsctl.Fence(t.Context(), root, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	r.MustUnmount("db", "user")
	path = r.MustMount("db", "next")
	if text, err := os.ReadFile(filepath.Join(path, "file")); err != nil || string(text) != "flushed" {
		t.Errorf("got %q, %v", text, err)
	}
	r.WriteFile("db", "file", "again")
	r.MustUnmount("db", "next")
}
