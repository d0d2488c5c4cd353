package backup_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/backup"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic"
	"github.com/droverhq/drover/internal/restic/restictest"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/test/backupserver"
	"github.com/droverhq/drover/test/require"
)

// pushing requests a push, and returns its operation when it has ended.
func pushing(f *agenttest.Cluster, volume, name string) dataset.Operation {
	f.Helper()
	return awaitEnd(f, *f.Submit(api.Request{Kind: dataset.OpPush, Volume: volume, Repository: "offsite", Name: name}).Operation)
}

func pushed(f *agenttest.Cluster, volume, name string) dataset.Operation {
	f.Helper()
	op := pushing(f, volume, name)
	if op.State != dataset.OpDone {
		f.Fatalf("the push is %s: %+v", op.State, op.Problem)
	}
	return op
}

// wantRefused fails unless an operation has failed with an error of a kind that has each of the texts.
func wantRefused(f *agenttest.Cluster, op dataset.Operation, kind *dataset.Kind, texts ...string) {
	f.Helper()
	if op.State != dataset.OpFailed || dataset.KindOf(op.Problem.Err()) != kind {
		f.Fatalf("the operation is %s: %+v", op.State, op.Problem)
	}
	for _, text := range texts {
		if !strings.Contains(op.Problem.Message, text) {
			f.Errorf("got %q, want %q in it", op.Problem.Message, text)
		}
	}
}

// pull restores the version of an operation as a new volume.
func pull(f *agenttest.Cluster, of dataset.Operation, version dataset.VersionRef, as string) dataset.Operation {
	f.Helper()
	return awaitEnd(f, *f.Submit(api.Request{
		ID: uuid.New(), Kind: dataset.OpImport, Volume: as + "@free", Repository: "offsite", Backup: of.Backup, Version: &version,
	}).Operation)
}

func versions(f *agenttest.Cluster, name string) dataset.History {
	f.Helper()
	list, err := f.A.Versions(f.Context(), "offsite", name)
	if err != nil || list.Problem != nil {
		f.Fatalf("%v, %+v", err, list.Problem)
	}
	return list.Items
}

func content(f *agenttest.Cluster, volume string) string {
	f.Helper()
	root := f.A.MustMount(volume, "reader")
	text, err := os.ReadFile(filepath.Join(root, "file"))
	require.NoError(f, err)
	return string(text)
}

// newCluster returns a cluster with one volume, whose file has a text.
func newCluster(t *testing.T, volume, text string) *agenttest.Cluster {
	f := agenttest.NewCluster(t, "loop", "loop")
	if volume != "" {
		f.A.NewVolume(volume + "@free")
		f.A.MustMount(volume, "user")
		f.A.WriteFile(volume, "file", text)
	}
	return f
}

// share records the repository of a cluster in another one.
func share(from, to *agenttest.Cluster) {
	to.Helper()
	r, err := from.Service.Repository(from.Context(), "offsite")
	if err == nil {
		_, err = to.Service.AddRepository(to.Context(), api.NewRepository{Name: r.Name, URL: r.URL, Password: r.Password})
	}
	require.NoError(to, err)
}

// Two clusters push and pull a volume by one repository. Each version names the one that it continues. Once both sides
// have changed, a push is refused with both histories, and stores nothing.
func TestPushAndPull(t *testing.T) {
	t.Parallel()
	f := newCluster(t, "db", "first")
	r := newRepository(t, f)
	g := newCluster(t, "", "")
	share(f, g)
	first := pushed(f, "db", "prod")
	f.A.WriteFile("db", "file", "second")
	second := pushed(f, "db", "prod")
	h := versions(g, "prod")
	if len(h) != 2 || h[0].ID != first.ID || h[1].ID != second.ID || h[1].Parent != first.ID || h[0].Newest || !h[1].Newest ||
		h[1].Backup != second.Backup || h[1].Volume != "db" || h[1].By != "this process" || h[1].Node == "" || h[1].Taken.IsZero() {
		t.Fatalf("got %+v", h)
	}
	if second.BytesAdded > 128<<10 {
		t.Errorf("the second push added %d bytes", second.BytesAdded)
	}
	wantRef := dataset.VersionRef{Repository: "offsite", Name: "prod", Version: second.ID}
	if got := f.Recorded("db").BasedOn; len(got) != 1 || got[0] != wantRef {
		t.Errorf("the record is based on %+v", got)
	}
	wrong := wantRef
	wrong.Version = first.ID
	wantRefused(g, pull(g, second, wrong, "theirs"), dataset.ErrInvalid, "does not have version "+first.ID.String()[:8])
	if op := pull(g, second, wantRef, "theirs"); op.State != dataset.OpDone {
		t.Fatalf("the pull is %s: %+v", op.State, op.Problem)
	}
	if got := content(g, "theirs"); got != "second" {
		t.Errorf("pulled %q", got)
	}
	if d, _ := g.A.Cache.Dataset(g.Recorded("theirs").ID); len(d.BasedOn) != 1 || d.BasedOn[0] != wantRef {
		t.Errorf("the pulled volume is based on %+v", d.BasedOn)
	}
	g.A.WriteFile("theirs", "file", "third")
	third := pushed(g, "theirs", "prod")
	f.A.WriteFile("db", "file", "ours")
	before, err := r.Backups(t.Context())
	must(t, err)
	wantRefused(f, pushing(f, "db", "prod"), dataset.ErrConflict, "push of volume db to offsite/prod: both sides have changed",
		third.ID.String()[:8]+", pushed ", "The volume continues version "+second.ID.String()[:8], "drover pull offsite/prod --as NEW",
		"drover push db offsite --as NEW")
	after, err := r.Backups(t.Context())
	must(t, err)
	if len(after) != len(before) {
		t.Errorf("the refused push left %d snapshots instead of %d", len(after), len(before))
	}
	beside := pushed(f, "db", "prod-ours")
	if h := versions(f, ""); len(h) != 4 || h[3].ID != beside.ID || h[3].Parent != second.ID {
		t.Errorf("got %+v", h)
	}
	wantNothingLeft(f.A)
	wantNothingLeft(g.A)
}

// A volume that has nothing to do with the versions of a name is not pushed to it.
func TestPushOfAnotherVolume(t *testing.T) {
	t.Parallel()
	f := newCluster(t, "db", "ours")
	newRepository(t, f)
	g := newCluster(t, "db", "theirs")
	share(f, g)
	first := pushed(f, "db", "")
	wantRefused(g, pushing(g, "db", ""), dataset.ErrConflict, "both sides have changed", first.ID.String()[:8]+", pushed ",
		"The volume continues no version of it")
}

// Of two pushes to one name at the same time, at most one succeeds. The other withdraws its version.
func TestPushesAtOnce(t *testing.T) {
	t.Parallel()
	f := newCluster(t, "db", "ours")
	r := newRepository(t, f)
	g := newCluster(t, "db", "theirs")
	share(f, g)
	req := api.Request{Kind: dataset.OpPush, Volume: "db", Repository: "offsite"}
	req.ID = uuid.New()
	one := *f.Submit(req).Operation
	req.ID = uuid.New()
	two := *g.Submit(req).Operation
	one, two = awaitEnd(f, one), awaitEnd(g, two)
	done := 0
	for _, op := range []dataset.Operation{one, two} {
		if op.State == dataset.OpDone {
			done++
		} else if dataset.KindOf(op.Problem.Err()) != dataset.ErrConflict {
			t.Errorf("the push is %s: %+v", op.State, op.Problem)
		}
	}
	f.A.Backups.Clear(t.Context()) // what could not be removed while the other push ran
	g.A.Backups.Clear(t.Context())
	list, err := r.Backups(t.Context())
	must(t, err)
	if h := versions(f, "db"); done > 1 || len(h.Newest("db")) != done || len(list) != 2*done {
		t.Errorf("%d pushes are done, and the repository has %+v and %d snapshots", done, h, len(list))
	}
}

// enterVersion writes an entry as another program could.
func enterVersion(t *testing.T, r *restic.Repository, tags ...string) {
	t.Helper()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, backup.EntryName), []byte("{}"), 0o600))
	_, _, err := r.Backup(t.Context(), restic.Request{Dir: dir, Names: []string{backup.EntryName}, Tags: tags})
	must(t, err)
}

// entry returns the tags of an entry, with some of them replaced.
func entry(replaced ...string) []string {
	tags := map[string]string{
		"format": "1", "operation": uuid.NewString(), "name": "db", "backup": strings.Repeat("0f", 32), "volume": "db",
		"dataset": uuid.NewString(), "node": "n", "by": "b",
	}
	for _, text := range replaced {
		key, value, _ := strings.Cut(text, "=")
		tags[key] = value
	}
	list := []string{backup.TagEntry}
	for key, value := range tags {
		list = append(list, key+"="+value)
	}
	return list
}

// A repository can have entries without data, and entries that cannot be read. A version without its data is shown as
// removed, and does not prevent a push. An entry that cannot be read prevents it, and the error names the entry, because
// it could be a version that the volume lacks.
func TestPushToWrongRemote(t *testing.T) {
	t.Parallel()
	f := newCluster(t, "db", "first")
	r := newRepository(t, f)
	enterVersion(t, r, entry("by=evil%1B%5B31m%2Cperson", "node=%zz")...)
	first := pushed(f, "db", "")
	h := versions(f, "db")
	if len(h) != 2 || !h[0].Removed || h[0].Newest || h[0].By != "evil[31m,person" || h[0].Node != "" || h[1].Parent != uuid.Nil {
		t.Fatalf("got %+v", h)
	}
	// The repository was restored from an older backup, which has a version of somebody else.
	all, err := r.Backups(t.Context())
	must(t, err)
	must(t, r.Remove(t.Context(), all[len(all)-1].ID))
	wantRefused(f, pushing(f, "db", ""), dataset.ErrConflict, "lacks version "+first.ID.String()[:8],
		"was the repository restored from an older backup?")
	enterVersion(t, r, entry("format=2")...)
	wantRefused(f, pushing(f, "db", ""), dataset.ErrUnsupported, "has format 2")
	list, err := f.A.Versions(t.Context(), "offsite", "")
	must(t, err)
	if len(list.Items) != 1 || list.Problem == nil || !strings.Contains(list.Problem.Message, "has format 2") {
		t.Errorf("got %+v", list)
	}
}

func TestBadEntriesAreRefused(t *testing.T) {
	t.Parallel()
	r, _ := folderRepository(t)
	c := backup.NewCatalog(r, here)
	for _, bad := range []string{
		"format=0", "format=x", "operation=", "operation=00000000-0000-0000-0000-000000000000", "name=../x", "backup=12", "volume=",
		"dataset=x", "parent=x",
	} {
		before, err := r.Backups(t.Context())
		must(t, err)
		enterVersion(t, r.Repository, entry(bad)...)
		list, err := c.Versions(t.Context(), "offsite", "")
		must(t, err)
		if len(list.Items) != 0 || list.Problem == nil || !strings.Contains(list.Problem.Message, "has bad tags") {
			t.Errorf("%s: got %+v", bad, list)
		}
		after, err := r.Backups(t.Context())
		must(t, err)
		must(t, r.Remove(t.Context(), after[len(before)].ID))
	}
}

// A backup whose push did not write an entry is no version, and is not restored, whatever control knows of it. The list
// of backups says so. It is not called damaged: the push may still run.
func TestUnfinishedPushIsNotRestored(t *testing.T) {
	r, _ := folderRepository(t)
	tags := backup.Tags{Volume: "db", Dataset: uuid.New(), Operation: uuid.New(), Pushed: "prod"}
	b := storeRecord(t, r, backup.Record{Version: 1, Volume: "db", Dataset: tags.Dataset}, tags.List())
	root := rootAt(t, t.TempDir())
	s := newRestorer(t, r)
	refused(t, s.Restore(t.Context(), "offsite", b.ID, nil, root, func(string) {}), dataset.ErrConflict,
		"has not ended, or was interrupted")
	c := backup.NewCatalog(r, here)
	wantIncomplete := func(want bool) {
		t.Helper()
		list, err := c.VolumeBackups(t.Context(), "offsite", "db")
		if err != nil || len(list.Items) != 1 || list.Items[0].Incomplete != want {
			t.Errorf("got %+v, %v", list, err)
		}
		if one, err := c.VolumeBackup(t.Context(), "offsite", b.ID); err != nil || one.Incomplete != want {
			t.Errorf("got %+v, %v", one, err)
		}
	}
	wantIncomplete(true)
	enterVersion(t, r.Repository, entry("operation="+tags.Operation.String(), "backup="+b.ID)...)
	wantIncomplete(false)
	must(t, s.Restore(t.Context(), "offsite", b.ID, &dataset.VersionRef{Name: "prod", Version: tags.Operation}, root, func(string) {}))
}

// noteUnwanted has a host note backups of an operation as unwanted, as if their removal had failed.
func noteUnwanted(f *agenttest.Cluster, op dataset.Operation, ids ...string) {
	f.Helper()
	f.A.Backups.Occupy("offsite")() // waits for the end of its job, which removes what is noted
	record, err := f.Service.Repository(f.Context(), "offsite")
	require.NoError(f, err)
	text, err := json.Marshal(map[string]any{
		"format": 1, "repository": "offsite", "url": record.URL, "operation": op.ID, "push": op.Push != nil, "backups": ids,
	})
	if err == nil {
		err = os.MkdirAll(filepath.Join(f.A.Root, "backups"), 0o700)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(f.A.Root, "backups", "remove-"+uuid.NewString()+".json"), text, 0o600)
	}
	require.NoError(f, err)
}

// clearUnwanted has a host remove what is noted.
func clearUnwanted(f *agenttest.Cluster) {
	f.A.Backups.Occupy("offsite")() // waits for the end of the last job, which removes it, too
	f.A.Backups.Clear(f.Context())
}

// withdraw has a host note the version of a push as unwanted, as if the push had failed after its entry was written.
func withdraw(f *agenttest.Cluster, r *restic.Repository, op dataset.Operation) {
	f.Helper()
	list, err := r.Backups(f.Context(), backup.TagEntry, backup.OperationTag(op.ID))
	if err != nil || len(list) != 1 {
		f.Fatalf("%v, %+v", err, list)
	}
	noteUnwanted(f, op, list[0].ID, op.Backup)
}

// wantNewest fails unless a name has the versions of operations, in their order, and only the last one is the newest.
func wantNewest(f *agenttest.Cluster, name string, ops ...dataset.Operation) {
	f.Helper()
	h := versions(f, name)
	ok := len(h) == len(ops)
	for i := range min(len(h), len(ops)) {
		ok = ok && h[i].ID == ops[i].ID && !h[i].Removed && h[i].Newest == (i == len(ops)-1)
	}
	if left, _ := filepath.Glob(filepath.Join(f.A.Root, "backups", "remove-*")); !ok || len(left) > 0 {
		f.Errorf("got %+v, and the notes %v", h, left)
	}
}

// A version that was withdrawn, but could not be removed yet, is not continued by the next push of the host. Other
// volumes of the host do not diverge from it.
func TestPushAfterWithdrawnVersion(t *testing.T) {
	t.Parallel()
	f := newCluster(t, "db", "first")
	r := newRepository(t, f)
	first := pushed(f, "db", "")
	enterWithdrawn := func(name string) {
		op := dataset.Operation{ID: uuid.New()}
		tags := backup.Tags{Volume: "db", Dataset: f.Recorded("db").ID, Operation: op.ID, Pushed: name}
		record := backup.Record{Version: 1, Volume: "db", Dataset: tags.Dataset}
		op.Backup = storeRecord(t, oneRepository{r}, record, tags.List()).ID
		enterVersion(t, r, entry("operation="+op.ID.String(), "backup="+op.Backup, "name="+name,
			"dataset="+tags.Dataset.String(), "parent="+first.ID.String())...)
		withdraw(f, r, op)
	}
	enterWithdrawn("db")
	second := pushed(f, "db", "")
	clearUnwanted(f)
	wantNewest(f, "db", first, second)
	enterWithdrawn("other")
	f.A.NewVolume("other@free")
	only := pushed(f, "other", "")
	clearUnwanted(f)
	wantNewest(f, "other", only)
}

// A version that was withdrawn stays if another one continues it: otherwise, the history would have a hole, and earlier
// versions would become the newest again.
func TestContinuedVersionStays(t *testing.T) {
	t.Parallel()
	f := newCluster(t, "db", "first")
	r := newRepository(t, f)
	g := newCluster(t, "", "")
	share(f, g)
	first, second := pushed(f, "db", ""), pushed(f, "db", "")
	ref := dataset.VersionRef{Repository: "offsite", Name: "db", Version: second.ID}
	pull(g, second, ref, "theirs")
	third := pushed(g, "theirs", "db")
	withdraw(f, r, second)
	clearUnwanted(f)
	wantNewest(f, "db", first, second, third)
	// A volume of the host that was pulled from the version also continues it.
	ref.Version = third.ID
	pull(g, third, ref, "copy")
	withdraw(g, r, third)
	fourth := pushed(g, "copy", "db")
	clearUnwanted(g)
	wantNewest(g, "db", first, second, third, fourth)
}

// A run of a push that was interrupted after its entry was written has succeeded, although another cluster has pulled
// and continued the version since.
func TestRepeatedPushAfterAnother(t *testing.T) {
	t.Parallel()
	f := newCluster(t, "db", "first")
	newRepository(t, f)
	g := newCluster(t, "", "")
	share(f, g)
	first, second := pushed(f, "db", ""), pushed(f, "db", "")
	pull(g, second, dataset.VersionRef{Repository: "offsite", Name: "db", Version: second.ID}, "theirs")
	third := pushed(g, "theirs", "db")
	again := second
	again.State, again.Backup, again.Ended = dataset.OpRunning, "", time.Time{}
	_, err := f.A.Backups.Create(t.Context(), &host.Job{}, &again)
	must(t, err)
	if again.Backup != second.Backup {
		t.Errorf("the push made %s instead of %s", again.Backup, second.Backup)
	}
	wantNewest(f, "db", first, second, third)
}

// A run of a push that was interrupted after its entry was written is completed by the next run, and what the first run
// has noted as unwanted is not removed.
func TestRepeatedPushKeepsItsVersion(t *testing.T) {
	f := newCluster(t, "db", "first")
	r := newRepository(t, f)
	op := pushed(f, "db", "")
	noteUnwanted(f, op, op.Backup)
	again := op
	again.State, again.Backup, again.Ended = dataset.OpRunning, "", time.Time{}
	_, err := f.A.Backups.Create(t.Context(), &host.Job{}, &again)
	must(t, err)
	f.A.Backups.Clear(t.Context())
	list, err := r.Backups(t.Context())
	must(t, err)
	if len(list) != 2 || again.Backup != op.Backup {
		t.Errorf("the repository has %d snapshots, and the push made %s instead of %s", len(list), again.Backup, op.Backup)
	}
}

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
	restictest.Make(t, filepath.Join(s.Data, "ann", "drover"), "correct horse")
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
		var list condition.List
		f.A.Backups.Findings(&list)
		if len(list) != want || removals.Load() != tried {
			t.Fatalf("reported %+v, and %d removals were tried, want %d", list, removals.Load(), tried)
		}
		if want > 0 && (list[0].Subject != "repository offsite" || !strings.Contains(list[0].Text, "append-only")) {
			t.Errorf("reported %+v", list)
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
