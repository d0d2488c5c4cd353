package backup_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/backup"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic"
	"github.com/droverhq/drover/internal/restic/restictest"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/tree"
	"github.com/droverhq/drover/test/assert"
)

// oneRepository is the recorded repository offsite.
type oneRepository struct{ *restic.Repository }

func (o oneRepository) OpenNamed(_ context.Context, name string) (*restic.Repository, error) {
	if name != "offsite" {
		return nil, dataset.Errorf(dataset.ErrNotFound, "no such repository: %q", name)
	}
	return o.Repository, nil
}

// folderRepository returns a new repository in a folder.
func folderRepository(t *testing.T) (r oneRepository, folder string) {
	t.Helper()
	dir := t.TempDir()
	// In memory, as in newRepository.
	must(t, unix.Mount("none", dir, "tmpfs", 0, "size=64m"))
	t.Cleanup(func() {
		assert.NoError(t, unix.Unmount(dir, unix.MNT_DETACH))
	})
	password := filepath.Join(dir, "password")
	must(t, os.WriteFile(password, []byte("correct horse\n"), 0o600))
	folder = filepath.Join(dir, "repository")
	opened, err := restic.New(t.Context(), &run.System{}, restic.Options{
		URL: folder, Password: dataset.PasswordSource{File: password}, CacheDir: filepath.Join(dir, "cache"),
	})
	must(t, err)
	restictest.Make(t, folder, "correct horse")
	return oneRepository{opened}, folder
}

// store stores a backup with the tags. Its data is a file with the given content.
func store(t *testing.T, r oneRepository, content string, tags []string) restic.Backup {
	t.Helper()
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, backup.DataName), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, backup.DataName, "file"), []byte(content), 0o600))
	return storeFolder(t, r, dir, []byte("{}"), tags)
}

// storeRecord stores a backup without files, with the record and the tags.
func storeRecord(t *testing.T, r oneRepository, record backup.Record, tags []string) restic.Backup {
	t.Helper()
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, backup.DataName), 0o700))
	text, err := json.Marshal(record)
	must(t, err)
	return storeFolder(t, r, dir, text, tags)
}

// storeFolder stores a backup of the data in dir, and of a record.
// storeFolder backs up a folder with a record. It sets Names and Metadata of the record, if these are not set.
func storeFolder(t *testing.T, r oneRepository, dir string, record []byte, tags []string) restic.Backup {
	t.Helper()
	if parsed, err := backup.ParseRecord(record); err == nil {
		root, err := os.Open(filepath.Join(dir, backup.DataName))
		must(t, err)
		survey, err := tree.SurveyTree(t.Context(), root, math.MaxInt64)
		must(t, errors.Join(err, root.Close()))
		parsed.Names = cmp.Or(parsed.Names, survey.Names)
		parsed.Metadata = cmp.Or(parsed.Metadata, survey.Metadata.String())
		record, err = json.Marshal(parsed)
		must(t, err)
	}
	must(t, os.WriteFile(filepath.Join(dir, backup.RecordName), record, 0o600))
	b, _, err := r.Backup(t.Context(), restic.Request{Dir: dir, Names: []string{backup.DataName, backup.RecordName}, Tags: tags})
	must(t, err)
	return b
}

// refused checks the kind of an error, and that its only line contains want.
func refused(t *testing.T, err error, kind *dataset.Kind, want string) {
	t.Helper()
	if err == nil || dataset.KindOf(err) != kind || !strings.Contains(err.Error(), want) ||
		strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v (%v), want %v: %s", err, dataset.KindOf(err), kind, want)
	}
}

func TestCatalog(t *testing.T) {
	ctx := t.Context()
	r, folder := folderRepository(t)
	c := backup.NewCatalog(r, here)
	tags := backup.Tags{Volume: "db", Dataset: uuid.New(), Operation: uuid.New(), Profile: "gold", Snapshot: uuid.New(),
		Cluster: here.Cluster(), Node: "host, a"}
	first := store(t, r, "first", tags.List())
	foreign := store(t, r, "foreign", []string{backup.TagDrover})
	other := store(t, r, "other", backup.Tags{Volume: "web", Dataset: uuid.New(), Operation: uuid.New()}.List())
	list := func(volume string) (ids []string) {
		t.Helper()
		l, err := c.VolumeBackups(ctx, "offsite", volume)
		must(t, err)
		if l.Problem != nil {
			t.Errorf("got the problem %+v", l.Problem)
		}
		for _, b := range l.Items {
			ids = append(ids, b.ID)
		}
		return ids
	}
	if got := list(""); !slices.Equal(got, []string{first.ID, other.ID}) {
		t.Errorf("got %s", got)
	}
	l, err := c.VolumeBackups(ctx, "offsite", "db")
	must(t, err)
	if len(l.Items) != 1 {
		t.Fatalf("got %+v", l)
	}
	got := l.Items[0]
	if (backup.Tags{
		Volume: got.Volume, Dataset: got.Dataset, Cluster: got.Cluster, Node: got.Node, Operation: got.Operation,
		Profile: got.Profile, Snapshot: got.Snapshot,
	}) != tags || got.Elsewhere || got.ID != first.ID ||
		got.Repository != "offsite" || !got.Taken.Equal(first.Time) {
		t.Errorf("got %+v", got)
	}
	if l, err := c.VolumeBackups(ctx, "offsite", "web"); err != nil || len(l.Items) != 1 || !l.Items[0].Elsewhere {
		t.Errorf("a backup of another cluster: %+v, %v", l, err)
	}
	_, err = c.VolumeBackups(ctx, "offsite", "../db")
	refused(t, err, dataset.ErrInvalid, "../db")
	_, err = c.VolumeBackups(ctx, "absent", "")
	refused(t, err, dataset.ErrNotFound, `no such repository: "absent"`)

	refused(t, c.RemoveBackup(ctx, "offsite", foreign.ID), dataset.ErrInvalid,
		"repository offsite: Drover has not made backup "+foreign.ID[:8])
	refused(t, c.RemoveBackup(ctx, "offsite", "latest"), dataset.ErrInvalid, "bad ID of a backup")
	must(t, c.RemoveBackup(ctx, "offsite", first.ID))
	refused(t, c.RemoveBackup(ctx, "offsite", first.ID), dataset.ErrNotFound, "it has no such backup")
	must(t, c.PruneRepository(ctx, "offsite"))
	if got := list(""); !slices.Equal(got, []string{other.ID}) {
		t.Errorf("got %s after the removal", got)
	}
	if all, err := r.Backups(ctx); err != nil || len(all) != 2 {
		t.Errorf("got %v, %v, want the foreign backup, too", all, err)
	}

	// A damaged backup is left out, and the list says so.
	later := store(t, r, "later", tags.List())
	file := filepath.Join(folder, "snapshots", other.ID)
	must(t, os.Chmod(file, 0o600))
	must(t, os.WriteFile(file, []byte("damaged"), 0o600))
	must(t, os.RemoveAll(filepath.Join(filepath.Dir(folder), "cache"))) // has the undamaged file
	l, err = c.VolumeBackups(ctx, "offsite", "")
	must(t, err)
	if len(l.Items) != 1 || l.Items[0].ID != later.ID || l.Problem == nil ||
		!strings.HasPrefix(l.Problem.Message, "backups in offsite: repository "+folder+": ") {
		t.Errorf("got %+v, %+v", l.Items, l.Problem)
	}
}

func TestBackupIsShownWithItsRecord(t *testing.T) {
	r, _ := folderRepository(t)
	c := backup.NewCatalog(r, here)
	tags := backup.Tags{
		Volume: "db", Dataset: uuid.New(), Cluster: here.Cluster(), Operation: uuid.New(), Profile: "gold",
	}
	record := backup.Record{
		Version: 1, Volume: "db", Dataset: tags.Dataset, Profile: backup.RecordedProfile{Name: "gold", Revision: "0123456789ab"},
		Size: 1 << 30, Labels: map[string]string{"team": "sea"}, Encrypted: true, Filesystem: "xfs",
		FilesystemGiven: true, Node: "host-a", Drover: "1.2.3",
	}
	b := storeRecord(t, r, record, tags.List())
	got, err := c.VolumeBackup(t.Context(), "offsite", b.ID)
	must(t, err)
	want := api.VolumeBackup{
		ID: b.ID, Repository: "offsite", Volume: "db", Taken: b.Time, Profile: "gold", Dataset: tags.Dataset,
		Operation: tags.Operation, Cluster: tags.Cluster, Record: &api.BackupRecord{
			Revision: "0123456789ab", Size: 1 << 30, Labels: record.Labels, Encrypted: true, Filesystem: "xfs",
			FilesystemGiven: true, Node: "host-a", Drover: "1.2.3",
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v with %+v, want %+v", got, got.Record, want)
	}
	record.Volume = "web"
	_, err = c.VolumeBackup(t.Context(), "offsite", storeRecord(t, r, record, tags.List()).ID)
	refused(t, err, dataset.ErrCorrupt, "describes dataset "+tags.Dataset.String()+" of volume web, and its tags")
	record.Version = 2
	_, err = c.VolumeBackup(t.Context(), "offsite", storeRecord(t, r, record, tags.List()).ID)
	refused(t, err, dataset.ErrUnsupported, "has version 2")
	_, err = c.VolumeBackup(t.Context(), "offsite", store(t, r, "foreign", []string{backup.TagDrover}).ID)
	refused(t, err, dataset.ErrInvalid, "Drover has not made backup")
	_, err = c.VolumeBackup(t.Context(), "offsite", strings.Repeat("0", 64))
	refused(t, err, dataset.ErrNotFound, "it has no such backup")
}

// newRestorer returns a Restorer that shows the new volume to restic in a folder of the test.
func newRestorer(t *testing.T, r backup.Repositories) *backup.Restorer {
	t.Helper()
	return backup.NewCatalog(r, nil).NewRestorer(t.TempDir())
}

// rootAt opens a folder as mounting.OpenRoot opens a volume.
func rootAt(t *testing.T, dir string) *os.File {
	t.Helper()
	opened, err := os.Open(dir)
	must(t, err)
	root, err := tree.NoFollow(opened)
	must(t, errors.Join(err, opened.Close()))
	t.Cleanup(func() { _ = root.Close() })
	return root
}
