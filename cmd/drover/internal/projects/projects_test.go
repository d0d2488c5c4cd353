package projects

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/safefile"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

const shopFile = `services:
  db:
    volumes: ["data:/var/lib/mysql"] # rows
  web:
    volumes: ["./html:/html", "./nginx.conf:/nginx.conf:ro"]
  cron:
    volumes: ["./html:/html:ro"]
volumes:
  data: {driver: local, labels: {a: b}}
`

// shop makes a project whose services db and web run.
func shop(t *testing.T) *world {
	w := newWorld(t)
	w.write("compose.yaml", shopFile)
	w.write("nginx.conf", "")
	w.write("html/index.html", "hello")
	w.local["shop_data"] = true
	w.writeOld("7")
	w.userUp("db", "web")
	return w
}

// writeOld and writeNew write into the database of the old and of the new volume.
func (w *world) writeOld(rows string) {
	w.write(filepath.Join(w.folder("local", "shop_data"), "rows"), rows)
}
func (w *world) writeNew(rows string) {
	w.write(filepath.Join(w.folder("drover", "shop-data"), "rows"), rows)
}

// base is the project with its Compose file alone.
func (w *world) base() composition {
	return composition{Project{Name: "shop", Dir: w.dir}, []string{filepath.Join(w.dir, "compose.yaml")}}
}

// userUp starts services with the Compose file.
func (w *world) userUp(services ...string) {
	w.t.Helper()
	p := w.base()
	count := map[string]int{}
	for _, s := range services {
		count[s] = 1
	}
	require.NoError(w.t, errors.Join(w.up(p, count, true), w.up(p, count, false)))
	w.noted = nil
}

// entries returns the names in a folder.
func entries(t *testing.T, dir string) string {
	t.Helper()
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	var out []string
	for _, e := range list {
		out = append(out, e.Name())
	}
	return strings.Join(out, " ")
}

// wantMoved fails unless the project runs on volumes of Drover that have its data.
func (w *world) wantMoved(rows string) {
	w.t.Helper()
	got, err := os.ReadFile(filepath.Join(w.folder("drover", "shop-data"), "rows"))
	page, errPage := os.ReadFile(filepath.Join(w.folder("drover", "shop-html"), "index.html"))
	if err != nil || errPage != nil || string(got) != rows || string(page) != "hello" {
		w.t.Errorf("the new volumes have %q, %v, %q, %v", got, err, page, errPage)
	}
	if got := entries(w.t, w.dir); w.read("compose.yaml") != shopFile || got != "compose.override.yaml compose.yaml html html.before-drover nginx.conf" {
		w.t.Errorf("the folder has %s", got)
	}
	w.wantRunning("shop-data@gold", "shop-html@gold")
}

// wantRunning fails unless containers db and web run with these sources.
func (w *world) wantRunning(db, web string) {
	w.t.Helper()
	got := map[string]string{}
	for _, c := range w.containers {
		if c.runs() {
			got[c.service()] = c.Mounts[0].Name
			if c.Mounts[0].Type == "bind" {
				got[c.service()] = c.Mounts[0].Source
			}
		}
	}
	if len(got) != 2 || got["db"] != db || got["web"] != web {
		w.t.Errorf("running: %v, want %s and %s", got, db, web)
	}
}

// wantBack fails unless the project is as it was before the move.
func (w *world) wantBack() {
	w.t.Helper()
	if got := entries(w.t, w.dir); got != "compose.yaml html nginx.conf" || w.read("html/index.html") != "hello" {
		w.t.Errorf("the folder has %s", got)
	}
	if got := entries(w.t, w.folder("local", "")); got != "shop_data" {
		w.t.Errorf("the volumes are %s", got)
	}
	w.wantRunning("shop_data", filepath.Join(w.dir, "html"))
}

func (w *world) must(args ...string) string {
	w.t.Helper()
	require.NoErrorf(w.t, w.run(args...), "%v", args)
	return w.out.String()
}

var adopt = []string{"shop", "--profile", "gold", "--yes"}

func TestAdoptUndoConfirm(t *testing.T) {
	w := shop(t)
	if out := w.must("shop", "--profile", "gold", "--dry-run"); !strings.Contains(out, "it is a single file") || !strings.Contains(out, `"data": {name: "shop-data@gold", external: true`) {
		t.Errorf("the plan is\n%s", out)
	}
	w.wantBack()
	if len(w.noted) > 0 {
		t.Errorf("a dry run did %v", w.noted)
	}
	w.must(adopt...)
	w.wantMoved("7")
	if info, err := os.Stat(w.journal()); err != nil || info.Mode() != 0o600 {
		t.Errorf("journal: %v, %v", info, err)
	}
	if text, err := os.ReadFile(w.journal()); err != nil || strings.Contains(string(text), "s3cret") {
		t.Error("the journal has a secret")
	}
	if info, err := os.Stat(filepath.Join(w.dir, "compose.override.yaml")); err != nil || info.Mode() != 0o644 {
		t.Errorf("the override file: %v, %v", info, err)
	}
	assert.ErrorIsf(t, w.run(adopt...), dataset.ErrExists, "a second move")
	if out := w.must("shop", "--undo", "--yes"); !strings.Contains(out, "drover volume rm --dry-run shop-data") {
		t.Errorf("undo: %s", out)
	}
	w.wantBack()
	// The volumes of the first move have their names.
	w.must(adopt...)
	w.wantRunning("shop-data-2@gold", "shop-html-2@gold")
	if out := w.must("shop", "--confirm"); !strings.Contains(out, "you may remove it: "+w.folder("local", "shop_data")+".before-drover\n") {
		t.Errorf("confirm: %s", out)
	}
	for _, flag := range []string{"--undo", "--confirm"} {
		assert.ErrorIsf(t, w.run("shop", flag, "--yes"), dataset.ErrNotFound, "%s without a move", flag)
	}
}

// TestSecondMove: a project that was moved gets another mount, which is moved too. --undo of the second move leaves the
// first one.
func TestSecondMove(t *testing.T) {
	w := shop(t)
	w.must("shop", "--profile", "gold", "--skip", "./html", "--yes")
	w.must("shop", "--confirm")
	first := w.read("compose.override.yaml")
	w.must(adopt...)
	w.wantMoved("7")
	w.must("shop", "--undo", "--yes")
	w.wantRunning("shop-data@gold", filepath.Join(w.dir, "html"))
	if w.read("compose.override.yaml") != first || strings.Contains(first, "html") {
		t.Errorf("the override file is\n%s", w.read("compose.override.yaml"))
	}
}

// TestAdoptIsInterrupted kills the command at each place, once. Then somebody starts the project without the override
// file, and its database writes. The same command then continues, or --undo goes back. Nothing that was written is lost.
func TestAdoptIsInterrupted(t *testing.T) {
	seen := map[string]bool{}
	for n := 1; ; n++ {
		var outcome error
		killed := func() (w *world, rows string) {
			w, rows = shop(t), "7"
			w.killAt = n
			outcome = w.run(adopt...)
			w.killAt = 0
			if outcome == nil {
				return w, rows
			}
			if w.up(w.base(), map[string]int{"db": 1, "web": 1}, false) == nil && w.containers[0].Mounts[0].Driver == "local" {
				w.writeOld("8")
				rows = "8"
			}
			return w, rows
		}
		w, rows := killed()
		if outcome == nil {
			break
		}
		seen[strings.TrimPrefix(outcome.Error(), "killed at ")] = true
		w.must(adopt...)
		w.wantMoved(rows)

		w, rows = killed()
		if err := w.run("shop", "--undo", "--yes"); err != nil && !errors.Is(err, dataset.ErrNotFound) {
			t.Errorf("undo after %v: %v", outcome, err)
		} else if err == nil {
			w.wantBack()
		}
		if got, err := os.ReadFile(filepath.Join(w.folder("local", "shop_data"), "rows")); err != nil || string(got) != rows {
			t.Errorf("undo after %v: rows %q, %v", outcome, got, err)
		}
	}
	for _, place := range []string{"draft", "stop", "aside", "set aside", "copy", "submit", "behind Submit", "copied", "switch", "switched", "start", "behind recreate", "recreated", "behind up", "up"} {
		if !seen[place] {
			t.Errorf("the command was not killed at %s: %v", place, seen)
		}
	}
}

// TestUndoIsInterrupted kills --undo at each place. The same command then continues.
func TestUndoIsInterrupted(t *testing.T) {
	places := 0
	for n := 1; ; n++ {
		w := shop(t)
		w.must(adopt...)
		w.killAt = n
		if err := w.run("shop", "--undo", "--yes"); err == nil {
			break
		}
		w.killAt = 0
		if err := w.run(adopt...); !errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), "--undo") {
			t.Errorf("a move during an undo: %v", err)
		}
		w.must("shop", "--undo", "--yes")
		w.wantBack()
		places++
	}
	if places < 9 {
		t.Errorf("only %d places", places)
	}
}

// TestInterrupt: after Ctrl-C the error says how to continue.
func TestInterrupt(t *testing.T) {
	w := shop(t)
	w.cancelAt = "behind stop"
	err := w.run(adopt...)
	w.cancelAt = ""
	if !errors.Is(err, dataset.ErrCancelled) || !strings.Contains(err.Error(), "--undo") {
		t.Fatal(err)
	}
	w.must(adopt...)
	w.wantMoved("7")
}

// adoptKilledAt moves the project with a command that is killed at a place.
func (w *world) adoptKilledAt(place string) {
	w.t.Helper()
	whole := shop(w.t)
	whole.must(adopt...)
	w.killAt = slices.Index(whole.places, place) + 1
	if err := w.run(adopt...); err == nil || err.Error() != "killed at "+place {
		w.t.Fatalf("got %v, want that the command is killed at %s", err, place)
	}
	w.killAt = 0
}

// TestContinuesAfterStart: the containers were started, and wrote, before the command was killed.
func TestContinuesAfterStart(t *testing.T) {
	w := shop(t)
	w.adoptKilledAt("up")
	w.writeNew("8")
	w.must(adopt...)
	w.wantMoved("8")
}

// TestStartedMeanwhile: a container that uses the old data although it was stopped prevents the move.
func TestStartedMeanwhile(t *testing.T) {
	for _, c := range []Container{makeContainer("shop-old-1", "shop", "/elsewhere"), makeContainer("other", "", "html")} {
		w := shop(t)
		c.Mounts[0].Source = filepath.Join(w.dir, c.Mounts[0].Source)
		w.adoptKilledAt("stop")
		c.Labels[labelOneOff] = "True" // so that docker compose stop leaves it
		w.containers = append(w.containers, c)
		if err := w.run(adopt...); !errors.Is(err, dataset.ErrInUse) || !strings.Contains(err.Error(), "docker stop "+c.name()) {
			t.Errorf("got %v", err)
		}
		if isLink(filepath.Join(w.dir, "html")) {
			t.Error("the old data is set aside")
		}
	}
}

// TestStartedBeforeSetAside: a container that was started after the last look, and just before the old data was set
// aside, is not overlooked: it still writes to the old data.
func TestStartedBeforeSetAside(t *testing.T) {
	w := shop(t)
	w.onAt = func(place string) {
		if place == "set aside" {
			w.containers[0].State = "running"
		}
	}
	if err := w.run(adopt...); !errors.Is(err, dataset.ErrInUse) || slices.Contains(w.noted, "Submit") {
		t.Fatalf("%v, after %v", err, w.noted)
	}
	w.onAt = nil
	w.must(adopt...)
	w.wantMoved("7")
}

// TestWrongMountAfterStart: if a container uses something else than the files say, the project is stopped.
func TestWrongMountAfterStart(t *testing.T) {
	w := shop(t)
	old := w.containers[0]
	w.afterUp = func() {
		w.containers = slices.DeleteFunc(w.containers, func(c Container) bool { return c.name() == old.name() })
		w.containers = append(w.containers, old)
	}
	if err := w.run(adopt...); !errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), "container shop-db-1 has another mount at") {
		t.Errorf("got %v", err)
	}
	for _, c := range w.containers {
		if c.runs() {
			t.Errorf("container %s runs", c.name())
		}
	}
	w.afterUp = nil
	w.must("shop", "--undo", "--yes")
	w.wantBack()
}

// TestStoppedContainers: a container that does not run is recreated with the new volumes, and not started. --undo
// recreates it with the old ones.
func TestStoppedContainers(t *testing.T) {
	w := shop(t)
	w.containers[0].State, w.containers[1].State = "exited", "exited"
	want := func(volume string) {
		t.Helper()
		for _, c := range w.containers {
			if c.State != "created" || c.service() == "db" && c.Mounts[0].Name != volume {
				t.Errorf("container %s: %s with %s", c.name(), c.State, c.Mounts[0].Name)
			}
		}
	}
	w.must(adopt...)
	want("shop-data@gold")
	w.must("shop", "--undo", "--yes")
	want("shop_data")
}

// TestOverrideEdited: an override file that somebody edited is never lost.
func TestOverrideEdited(t *testing.T) {
	w := shop(t)
	w.adoptKilledAt("copied")
	w.write("compose.override.yaml", "# mine\n")
	if err := w.run(adopt...); !errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), "was edited since") {
		t.Errorf("before the switch: %v", err)
	}
	if err := w.run("shop", "--undo", "--yes"); !errors.Is(err, dataset.ErrConflict) || w.read("compose.override.yaml") != "# mine\n" {
		t.Errorf("undo: %v", err)
	}
	require.NoError(t, os.Remove(filepath.Join(w.dir, "compose.override.yaml")))
	w.must("shop", "--undo", "--yes")
	w.wantBack()
}

// TestOverrideIsNotRead: if Docker Compose no longer reads the override file at the switch, no container is started.
func TestOverrideIsNotRead(t *testing.T) {
	w := shop(t)
	w.adoptKilledAt("copied")
	w.hidesOverride = true
	if err := w.run(adopt...); !errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), "reads no override file") || slices.Contains(w.noted, "up") {
		t.Errorf("%v, after %v", err, w.noted)
	}
	w.must("shop", "--undo", "--yes")
	w.wantBack()
}

// TestWithoutContainers: a project that is down is found in the current folder, also to go back.
func TestWithoutContainers(t *testing.T) {
	w := shop(t)
	t.Chdir(w.dir)
	w.containers = nil
	w.must(adopt...)
	if got := w.read("compose.override.yaml"); !strings.Contains(got, `"data": {name: "shop-data@gold"`) {
		t.Errorf("the override file is\n%s", got)
	}
	w.must("shop", "--undo", "--yes")
	if got := entries(t, w.dir); got != "compose.yaml html nginx.conf" {
		t.Errorf("the folder has %s", got)
	}
}

// TestCopyFails: a failed import can be repeated, and undone.
func TestCopyFails(t *testing.T) {
	w := shop(t)
	w.fail["import"] = dataset.Errorf(dataset.ErrNoSpace, "the pool is full")
	if err := w.run(adopt...); !errors.Is(err, dataset.ErrNoSpace) || !strings.Contains(err.Error(), "--undo goes back") {
		t.Fatal(err)
	}
	assert.ErrorIsf(t, w.run("shop", "--profile", "silver", "--yes"), dataset.ErrConflict, "with other flags")
	assert.ErrorIsf(t, w.run("shop", "--confirm"), dataset.ErrConflict, "confirm")
	if out := w.must(append(adopt[:len(adopt)-1:len(adopt)-1], "--dry-run")...); !strings.Contains(out, "at step copy") {
		t.Errorf("dry run: %s", out)
	}
	w.fail["import"] = nil
	w.must(adopt...)
	w.wantMoved("7")
}

// TestOneRun: two runs for one project do not work at the same time.
func TestOneRun(t *testing.T) {
	w := shop(t)
	unlock, err := safefile.Lock(t.Context(), w.journal()+".lock", 0)
	require.NoError(t, err)
	if err := w.run(adopt...); !errors.Is(err, dataset.ErrInUse) || !strings.Contains(err.Error(), "another drover adopt-project shop runs") {
		t.Errorf("got %v", err)
	}
	require.NoError(t, unlock())
	w.must(adopt...)
}

// TestForeignVolume: a volume with the name of a new one, which somebody made meanwhile, is not used.
func TestForeignVolume(t *testing.T) {
	w := shop(t)
	w.adoptKilledAt("copy")
	w.volumes["shop-data"] = api.Volume{}
	assert.ErrorIs(t, w.run(adopt...), dataset.ErrExists)
	if out := w.must("shop", "--undo", "--yes"); strings.Contains(out, "shop-data") {
		t.Errorf("undo suggests to remove a volume of somebody else: %s", out)
	}
	w.wantBack()
}

// TestUndoEnds: once the old data is back, --undo ends even if a service does not start.
func TestUndoEnds(t *testing.T) {
	for _, command := range []string{"up", "recreate", "config"} {
		w := shop(t)
		w.must(adopt...)
		w.fail[command] = errors.New("its port is taken")
		err := w.run("shop", "--undo", "--yes")
		if err == nil || !strings.Contains(err.Error(), "docker compose up -d --force-recreate") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v", command, err)
		}
		if _, err := os.Stat(w.journal()); !errors.Is(err, os.ErrNotExist) || w.read("html/index.html") != "hello" {
			t.Errorf("%s: the journal: %v", command, err)
		}
	}
}

// TestUndoWithoutDrover: --undo goes back although Drover does not answer.
func TestUndoWithoutDrover(t *testing.T) {
	for _, place := range []string{"up", "copied"} {
		w := shop(t)
		w.adoptKilledAt(place)
		w.fail["CancelOperation"], w.fail["Volume"] = errors.New("drover does not run"), errors.New("drover does not run")
		w.must("shop", "--undo", "--yes")
		w.wantBack()
	}
}

// TestForeignJournal: a journal that another user may have written is refused. No container is stopped.
func TestForeignJournal(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(*world) error
		kind error
	}{
		"mode":           {func(w *world) error { return os.Chmod(w.journal(), 0o644) }, dataset.ErrForbidden},
		"owner":          {func(w *world) error { return os.Chown(w.journal(), 65534, 0) }, dataset.ErrForbidden},
		"folder":         {func(w *world) error { return os.Chmod(w.journals, 0o777) }, dataset.ErrForbidden},
		"folder's owner": {func(w *world) error { return os.Chown(w.journals, 65534, 0) }, dataset.ErrForbidden},
		"FIFO":           {func(w *world) error { return errors.Join(os.Remove(w.journal()), unix.Mkfifo(w.journal(), 0o600)) }, dataset.ErrInvalid},
		"text":           {func(w *world) error { return os.WriteFile(w.journal(), []byte("{"), 0o600) }, dataset.ErrCorrupt},
		"version":        {func(w *world) error { return os.WriteFile(w.journal(), []byte(`{"version": 1}`), 0o600) }, dataset.ErrUnsupported},
		"size":           {func(w *world) error { return os.Truncate(w.journal(), 1<<30) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := shop(t)
			w.adoptKilledAt("switch")
			require.NoError(t, c.do(w))
			before, noted := entries(t, w.dir), len(w.noted)
			for _, args := range [][]string{adopt, {"shop", "--undo", "--yes"}, {"shop", "--confirm"}} {
				done := make(chan error, 1)
				go func() { done <- w.run(args...) }()
				select {
				case err := <-done:
					if err == nil || c.kind != nil && !errors.Is(err, c.kind) || !strings.Contains(err.Error(), w.journals) {
						t.Errorf("%v: %v, want %v", args, err, c.kind)
					}
				case <-time.After(20 * time.Second):
					t.Fatalf("%v does not end", args)
				}
			}
			if after := entries(t, w.dir); after != before || len(w.noted) != noted {
				t.Errorf("%s became %s, after %v", before, after, w.noted)
			}
		})
	}
}
