package backup_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/backup"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/test/backupserver"
)

// newAppendOnly records a repository on an append-only server as offsite. removals counts the requests to remove
// anything but locks.
func newAppendOnly(t *testing.T, f *agenttest.Cluster) (r *restic.Repository, removals *atomic.Int32) {
	t.Helper()
	s, removals := backupserver.PrivateREST(t, "--append-only"), new(atomic.Int32)
	s.Fail(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodDelete && !strings.Contains(r.URL.Path, "/locks/") {
			removals.Add(1)
		}
		return false
	})
	n := api.NewRepository{
		Name: "offsite", URL: s.URL, CredentialsFile: s.CredentialsFile,
		Password: dataset.PasswordSource{File: filepath.Join(t.TempDir(), "password")},
	}
	must(t, os.WriteFile(n.Password.File, []byte("correct horse\n"), 0o600))
	_, err := f.A.CheckRepository(t.Context(), api.RepositoryCheck{New: &n, Init: true})
	must(t, err)
	_, err = f.Service.AddRepository(t.Context(), n)
	must(t, err)
	r, err = restic.New(t.Context(), &run.System{}, restic.Options{
		URL: n.URL, Password: n.Password, CredentialsFile: n.CredentialsFile,
	})
	must(t, err)
	return r, removals
}

// In an append-only repository, the removal of expired, incomplete and withdrawn backups is refused once, reported, and
// not repeated until the agent starts again. Backups and pushes go on. Requests to remove and to prune say why they are
// refused.
func TestAppendOnlyRepository(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	r, removals := newAppendOnly(t, f)
	wantReport := func(want int, tried int32) {
		t.Helper()
		f.A.Backups.Occupy("offsite")() // waits for the end of the last job
		var list host.List
		f.A.Backups.Findings(&list)
		if len(list.All) != want || removals.Load() != tried {
			t.Fatalf("reported %+v, and %d removals were tried, want %d", list.All, removals.Load(), tried)
		}
		if want > 0 && (list.All[0].Subject != "repository offsite" || !strings.Contains(list.All[0].Text, "append-only")) {
			t.Errorf("reported %+v", list.All)
		}
	}
	f.A.NewVolume("db@backed")
	all := []string{backUpOnSchedule(f, "db"), backUpOnSchedule(f, "db")}
	wantReport(0, 0)
	for range 3 {
		all = append(all, backUpOnSchedule(f, "db")) // its profile keeps two
		wantReport(1, 1)
	}
	f.A.Restart()
	wantReport(0, 1)
	noteUnwanted(f, dataset.Operation{ID: operationOf(t, r, all[0])}, all[0])
	for range 2 {
		clearUnwanted(f)
		wantReport(1, 2)
	}
	all = append(all, backUpOnSchedule(f, "db"))
	wantReport(1, 2)
	wantBackups(t, r, all...)

	f.A.NewVolume("web@free")
	first := pushed(f, "web", "")
	withdraw(f, r, first)
	second := pushed(f, "web", "") // it does not take the withdrawn version for that of another host
	wantReport(1, 2)
	if h := versions(f, "web"); len(h) != 2 || len(h.Newest("web")) == 0 || h[1].ID != second.ID {
		t.Errorf("the versions are %+v", h)
	}
	err := f.A.RemoveBackup(t.Context(), "offsite", all[0])
	if dataset.KindOf(err) != dataset.ErrForbidden || !strings.Contains(err.Error(), "it is append-only") {
		t.Errorf("a removal: %v", err)
	}
}

// operationOf returns the operation that has made a backup.
func operationOf(t *testing.T, r *restic.Repository, id string) (op [16]byte) {
	t.Helper()
	list, err := r.Backups(t.Context(), backup.TagDrover)
	must(t, err)
	for _, b := range list {
		if tags, ok := backup.ParseTags(b.Tags); ok && b.ID == id {
			return tags.Operation
		}
	}
	t.Fatalf("no backup %s", id)
	return op
}
