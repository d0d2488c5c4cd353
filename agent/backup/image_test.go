package backup_test

import (
	"bytes"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// noise returns random text, which restic cannot compress.
func noise(t *testing.T, n int) string {
	t.Helper()
	b := make([]byte, n)
	_, err := rand.Read(b)
	must(t, err)
	return string(b)
}

// restoreOn restores a backup to a volume, and returns the ended operation.
func restoreOn(h *agenttest.Host, f *agenttest.Cluster, kind dataset.OpKind, id, spec string, options map[string]string) dataset.Operation {
	f.Helper()
	all := map[string]string{}
	if kind != dataset.OpVerify { // it runs where there is room
		all["node"] = h.Config.NodeName
	}
	for key, value := range options {
		all[key] = value
	}
	return awaitEnd(f, *f.Submit(api.Request{
		ID: uuid.New(), Kind: kind, Volume: spec, Repository: "offsite", Backup: id, Options: all,
	}).Operation)
}

// The image of a volume is backed up in segments. A second backup reads and sends only those that changed. The volume
// is restored and verified on each host whose pool has images.
func TestImageBackup(t *testing.T) {
	f := agenttest.NewCluster(t, "loop", "loop")
	newRepository(t, f)
	f.A.NewVolume("db@image")
	f.A.MustMount("db", "user")
	large := noise(t, 40<<20)
	f.A.WriteFile("db", "large", large)
	first := backUp(f, "db", "")
	if first.BytesAdded < 40<<20 || first.BytesAdded > 80<<20 {
		t.Errorf("the first backup added %d bytes", first.BytesAdded)
	}
	f.A.WriteFile("db", "small", "second")
	second := backUp(f, "db", "")
	if second.BytesAdded == 0 || second.BytesAdded > 15<<20 {
		t.Errorf("the second backup added %d bytes", second.BytesAdded)
	}
	wantNothingLeft(f.A)
	list, err := f.A.VolumeBackups(t.Context(), "offsite", "db")
	must(t, err)
	if len(list.Items) != 2 || list.Items[0].Mode != dataset.BackupImage {
		t.Errorf("listed %+v", list)
	}
	b, err := f.A.VolumeBackup(t.Context(), "offsite", second.Backup)
	must(t, err)
	fs := map[string]string{"fs": b.Record.Filesystem}

	for name, h := range map[string]*agenttest.Host{"one": f.A, "two": f.B} {
		if op := restoreOn(h, f, dataset.OpImport, second.Backup, name+"@image", fs); op.State != dataset.OpDone {
			t.Fatalf("restore on %s: %+v", name, op.Problem)
		}
		h.MustMount(name, "user")
		if got := h.ReadFile(name, "large"); got != large {
			t.Errorf("on %s: the large file has %d bytes", name, len(got))
		}
		if got := h.ReadFile(name, "small"); got != "second" {
			t.Errorf("on %s: the small file is %q", name, got)
		}
		h.MustUnmount(name, "user")
	}
	// The volume can have got another size since.
	other := map[string]string{"xfs": "ext4", "ext4": "xfs"}[b.Record.Filesystem]
	op := restoreOn(f.B, f, dataset.OpVerify, first.Backup, "db@image", map[string]string{"size": "640MiB", "fs": other})
	if op.State != dataset.OpDone {
		t.Errorf("the verification is %s: %+v", op.State, op.Problem)
	}
	wantNothingLeft(f.A)
	wantNothingLeft(f.B)

	for what, c := range map[string]struct {
		spec, size, fs, want string
	}{
		"another size":       {"three@image", "640MiB", b.Record.Filesystem, "restore it with -o size=512MiB, then: drover volume resize"},
		"another filesystem": {"four@image", "512MiB", other, "restore it with -o fs=" + b.Record.Filesystem},
	} {
		op := restoreOn(f.A, f, dataset.OpImport, second.Backup, c.spec, map[string]string{"size": c.size, "fs": c.fs})
		if op.State != dataset.OpFailed || !strings.Contains(op.Problem.Message, c.want) || op.Problem.Code != dataset.ErrUnsupported.Code {
			t.Errorf("%s: %s %+v", what, op.State, op.Problem)
		}
	}
	wantNothingLeft(f.A)

	// A lost segment is noticed, also if nothing else is damaged.
	segments, err := filepath.Glob(filepath.Join(f.A.Pool().Info().Path, "segments", "*", "parts", "*", "*"))
	must(t, err)
	must(t, os.Remove(segments[len(segments)-1]))
	op = awaitEnd(f, begin(f, "db", ""))
	if op.State != dataset.OpFailed || !strings.Contains(op.Problem.Message, "segments, and restic has stored") {
		t.Errorf("a backup without a segment: %s %+v", op.State, op.Problem)
	}
	backUp(f, "db", "") // all segments were made again

	// A backup with a damaged image is stored. Its verification says that the backup is damaged.
	segments, err = filepath.Glob(filepath.Join(f.A.Pool().Info().Path, "segments", "*", "parts", "000000", "00000000"))
	must(t, err)
	var damaged string
	for zeros, kept := make([]byte, backends.SegmentSize), false; !kept; {
		must(t, os.WriteFile(segments[0], zeros, 0o600))
		damaged = backUp(f, "db", "").Backup
		now, err := os.ReadFile(segments[0])
		must(t, err)
		kept = bytes.Equal(now, zeros) // otherwise the filesystem has written its superblock meanwhile
	}
	op = restoreOn(f.B, f, dataset.OpVerify, damaged, "db@image", fs)
	if op.State != dataset.OpFailed || op.Problem.Code != dataset.ErrCorrupt.Code {
		t.Errorf("verification of a damaged image: %s %+v", op.State, op.Problem)
	}
	wantNothingLeft(f.A)
	wantNothingLeft(f.B)

	// Without the mode, the pool keeps no segments.
	f.A.WriteFile("db", "large", "small now")
	f.Submit(api.Request{ID: uuid.New(), Kind: dataset.OpUpdate, Volume: "db", Profile: "free"})
	backUp(f, "db", "")
	if left, err := filepath.Glob(filepath.Join(f.A.Pool().Info().Path, "segments", "*")); err != nil || len(left) > 0 {
		t.Errorf("after mode: files, segments are left: %v, %v", left, err)
	}
}

// A pool without images neither makes nor restores such a backup, and says what to do.
func TestImageBackupNeedsImages(t *testing.T) {
	f := agenttest.NewCluster(t, "loop", "dir")
	newRepository(t, f)
	f.A.NewVolume("db@image")
	made := backUp(f, "db", "")
	op := restoreOn(f.B, f, dataset.OpImport, made.Backup, "new@plain", nil)
	if op.State != dataset.OpFailed || !strings.Contains(op.Problem.Message, "use a pool of backend loop") {
		t.Errorf("a restore to a dir pool: %s %+v", op.State, op.Problem)
	}
	wantNothingLeft(f.B)
}
