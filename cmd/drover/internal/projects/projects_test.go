package projects

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/safefile"
)

const shopFile = `services:
  db:
    image: mariadb
    volumes: [data:/var/lib/mysql] # rows
  web:
    image: nginx
    volumes:
      - ./html:/html
      - ./nginx.conf:/nginx.conf:ro
  cron:
    image: nginx
    volumes: [./html:/html:ro, later:/later]
volumes:
  data:
  later:
`

const shopMoved = `services:
  db:
    image: mariadb
    volumes: [data:/var/lib/mysql] # rows
  web:
    image: nginx
    volumes:
      - html:/html
      - ./nginx.conf:/nginx.conf:ro
  cron:
    image: nginx
    volumes: [html:/html:ro, later:/later]
volumes:
  data:
    name: shop-data@gold
    external: true
  later:
    name: shop-later@gold
    external: true
  html:
    name: shop-html@gold
    external: true
`

// shop makes a project whose services db and web run.
func shop(t *testing.T) *world {
	w := newWorld(t)
	w.write("compose.yaml", shopFile)
	w.write("nginx.conf", "")
	w.write("html/index.html", "hello")
	w.local["shop_data"] = Volume{Name: "shop_data", Driver: "local"}
	w.write(filepath.Join(w.folder("local", "shop_data"), "rows"), "7")
	for _, err := range []error{
		os.Chown(filepath.Join(w.folder("local", "shop_data"), "rows"), 999, 998),
		unix.Setxattr(filepath.Join(w.dir, "html"), "user.origin", []byte("eva"), 0),
		os.Link(filepath.Join(w.dir, "html/index.html"), filepath.Join(w.dir, "html/link")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	p := Project{Name: "shop", Dir: w.dir, Files: []string{filepath.Join(w.dir, "compose.yaml")}}
	w.up(p, "db", "web")
	return w
}

// up starts services with the present files.
func (w *world) up(p Project, services ...string) {
	w.t.Helper()
	text, err := fakeCompose{w}.Config(w.t.Context(), p, p.Files)
	if err != nil {
		w.t.Fatal(err)
	}
	m, err := parseModel(text)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, s := range services {
		w.container(p, m, s, "running")
	}
}

// entries returns the names in a folder.
func entries(t *testing.T, dir string) string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range list {
		out = append(out, e.Name())
	}
	return strings.Join(out, " ")
}

// wantMoved fails unless the project runs on volumes of Drover that have its data.
func (w *world) wantMoved() {
	w.t.Helper()
	if got := w.read("compose.yaml"); got != shopMoved {
		w.t.Errorf("the Compose file is\n%s", got)
	}
	if got := w.read("compose.yaml.before-drover"); got != shopFile {
		w.t.Errorf("the old Compose file is\n%s", got)
	}
	for volume, folder := range map[string]string{"shop-data": w.folder("local", "shop_data"), "shop-html": filepath.Join(w.dir, "html")} {
		if err := compare(w.t.Context(), fakeRemote{w: w}, volume, folder); err != nil {
			w.t.Error(err)
		}
	}
	if _, ok := w.volumes["shop-later"]; !ok {
		w.t.Error("volume shop-later is missing")
	}
	w.wantRunning("shop-data@gold", "shop-html@gold")
}

// wantRunning fails unless containers db and web run with these sources.
func (w *world) wantRunning(db, web string) {
	w.t.Helper()
	got := map[string]string{}
	for _, c := range w.containers {
		if c.Running() {
			got[c.Service] = c.Mounts[0].Name
			if c.Mounts[0].Type == "bind" {
				got[c.Service] = c.Mounts[0].Source
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
	if got := w.read("compose.yaml"); got != shopFile {
		w.t.Errorf("the Compose file is\n%s", got)
	}
	if got := entries(w.t, w.dir); got != "compose.yaml html nginx.conf" {
		w.t.Errorf("the folder has %s", got)
	}
	w.wantRunning("shop_data", filepath.Join(w.dir, "html"))
}

func (w *world) must(args ...string) string {
	w.t.Helper()
	if err := w.run(args...); err != nil {
		w.t.Fatalf("%v: %v", args, err)
	}
	return w.out.String()
}

var adopt = []string{"shop", "--profile", "gold", "--yes"}

func TestAdoptUndoConfirm(t *testing.T) {
	w := shop(t)
	if out := w.must("shop", "--profile", "gold", "--dry-run"); !strings.Contains(out, "it is a single file") || !strings.Contains(out, "compose.yaml:8: ./html becomes html") {
		t.Errorf("the plan is\n%s", out)
	}
	w.wantBack()
	if len(w.noted) > 0 {
		t.Errorf("a dry run did %v", w.noted)
	}
	w.must(adopt...)
	w.wantMoved()
	if info, err := os.Stat(w.journal()); err != nil || info.Mode() != 0o600 {
		t.Errorf("journal: %v, %v", info, err)
	}
	if text, err := os.ReadFile(w.journal()); err != nil || strings.Contains(string(text), "s3cret") {
		t.Error("the journal has a secret")
	}
	if info, err := os.Stat(filepath.Join(w.dir, "compose.yaml")); err != nil || info.Mode() != 0o640 {
		t.Errorf("mode of the Compose file: %v, %v", info, err)
	}
	if err := w.run(adopt...); !errors.Is(err, dataset.ErrExists) {
		t.Errorf("a second move: %v", err)
	}
	if out := w.must("shop", "--undo", "--yes"); !strings.Contains(out, "drover volume rm shop-data") {
		t.Errorf("undo: %s", out)
	}
	w.wantBack()
	// The volumes of the first move have their names.
	w.must(adopt...)
	w.wantRunning("shop-data-2@gold", "shop-html-2@gold")
	if out := w.must("shop", "--confirm"); !strings.Contains(out, "docker volume rm shop_data\n") || strings.Contains(out, "shop_later") {
		t.Errorf("confirm: %s", out)
	}
	for _, flag := range []string{"--undo", "--confirm"} {
		if err := w.run("shop", flag, "--yes"); !errors.Is(err, dataset.ErrNotFound) {
			t.Errorf("%s without a move: %v", flag, err)
		}
	}
}

// TestAdoptIsInterrupted kills the command at each place, once. The same command then continues, or --undo goes back.
func TestAdoptIsInterrupted(t *testing.T) {
	seen := map[string]bool{}
	for n := 1; ; n++ {
		w := shop(t)
		w.killAt = n
		err := w.run(adopt...)
		if err == nil {
			break
		}
		seen[strings.TrimPrefix(err.Error(), "killed at ")] = true
		w.killAt = 0
		old := w.read("compose.yaml") == shopFile || w.read("compose.yaml.before-drover") == shopFile
		if !old {
			t.Errorf("%v: the old file is gone", err)
		}
		w.must(adopt...)
		w.wantMoved()

		w = shop(t)
		w.killAt = n
		_ = w.run(adopt...)
		w.killAt = 0
		w.must("shop", "--undo", "--yes")
		w.wantBack()
	}
	for _, place := range []string{"stop", "copy", "submit", "behind Submit", "copied", "verify", "verified", "switch", "kept", "switched", "start", "behind Recreate", "recreated", "behind Up", "up"} {
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
	if places < 7 {
		t.Errorf("only %d places", places)
	}
}

// TestLeave moves a project back into local volumes, killed at each place.
func TestLeave(t *testing.T) {
	places := 0
	for n := 0; ; n++ {
		w := shop(t)
		w.must(adopt...)
		w.must("shop", "--confirm")
		w.write(filepath.Join(w.folder("drover", "shop-data"), "rows"), "8")
		w.killAt = n
		err := w.run("shop", "--leave", "--yes")
		if err == nil && n > 0 {
			break
		}
		places++
		w.killAt = 0
		if n > 0 {
			w.must("shop", "--leave", "--yes")
		}
		w.wantRunning("shop_data-2", "shop_html")
		for source, local := range map[string]string{"shop-data": "shop_data-2", "shop-html": "shop_html", "shop-later": "shop_later"} {
			if err := compare(t.Context(), fakeRemote{w: w}, source, w.folder("local", local)); err != nil {
				t.Error(err)
			}
		}
		if got, err := os.ReadFile(filepath.Join(w.folder("local", "shop_data"), "rows")); err != nil || string(got) != "7" {
			t.Errorf("the first volume has %q, %v", got, err)
		}
		if out := w.must("shop", "--confirm"); !strings.Contains(out, "drover volume rm shop-html #") {
			t.Errorf("confirm: %s", out)
		}
	}
	if places < 15 {
		t.Errorf("only %d places", places)
	}
}

// TestInterrupt: after Ctrl-C the error says how to continue.
func TestInterrupt(t *testing.T) {
	w := shop(t)
	w.cancelAt = "behind Stop"
	err := w.run(adopt...)
	w.cancelAt = ""
	if !errors.Is(err, dataset.ErrCancelled) || !strings.Contains(err.Error(), "--undo") {
		t.Fatal(err)
	}
	w.must(adopt...)
	w.wantMoved()
}

// TestContinuesAfterStart: the containers were started, and wrote, before the command was killed. The same command does
// not compare the volumes with the old data again.
func TestContinuesAfterStart(t *testing.T) {
	w := shop(t)
	w.adoptKilledAt("up")
	w.write(filepath.Join(w.folder("drover", "shop-data"), "rows"), "8")
	w.must(adopt...)
	w.wantRunning("shop-data@gold", "shop-html@gold")
}

// TestRestartedMeanwhile: after an interruption somebody started the containers, and they wrote. The copy is old then,
// and the files are not exchanged.
func TestRestartedMeanwhile(t *testing.T) {
	w := shop(t)
	w.adoptKilledAt("verify")
	w.write(filepath.Join(w.folder("local", "shop_data"), "rows"), "8")
	if err := w.run(adopt...); !errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), `"rows": `) {
		t.Errorf("got %v", err)
	}
	if w.read("compose.yaml") != shopFile {
		t.Error("the Compose file was exchanged")
	}
	w.must("shop", "--undo", "--yes")
	w.wantBack()
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

// TestStartedDuringCopy: a container that starts during the copy prevents the exchange.
func TestStartedDuringCopy(t *testing.T) {
	w := shop(t)
	w.adoptKilledAt("verify")
	m := &mover{engine: fakeEngine{w}, j: &Journal{Project: Project{Name: "shop"}}}
	w.containers[0].State = "running"
	if err := m.switchFiles(t.Context()); !errors.Is(err, dataset.ErrInUse) {
		t.Errorf("got %v", err)
	}
	w.containers[0] = Container{Name: "other", State: "running", Mounts: []Mount{{Type: "bind", Source: w.dir}}}
	m.j.Items = []Item{{Source: w.dir + "/html", Dir: true, Folder: w.dir + "/html"}}
	if err := m.switchFiles(t.Context()); !errors.Is(err, dataset.ErrInUse) {
		t.Errorf("another container: %v", err)
	}
}

// TestEditedFiles: a Compose file that was edited meanwhile is never lost.
func TestEditedFiles(t *testing.T) {
	w := shop(t)
	w.adoptKilledAt("copied")
	w.write("compose.yaml", shopFile+"# mine\n")
	if err := w.run(adopt...); !errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), "was edited meanwhile") {
		t.Errorf("edited before the exchange: %v", err)
	}
	w.must("shop", "--undo", "--yes")
	if got := w.read("compose.yaml"); got != shopFile+"# mine\n" {
		t.Errorf("after the undo: %s", got)
	}

	// A crash interrupted the copy of the old file.
	w = shop(t)
	w.adoptKilledAt("copied")
	w.write("compose.yaml.before-drover", shopFile[:20])
	w.must("shop", "--undo", "--yes")
	if got := w.read("compose.yaml"); got != shopFile {
		t.Errorf("after the undo of an incomplete copy: %s", got)
	}

	w = shop(t)
	w.must(adopt...)
	w.write("compose.yaml", shopMoved+"# mine\n")
	if out := w.must("shop", "--undo", "--yes"); !strings.Contains(out, "compose.yaml.changed-drover") {
		t.Errorf("undo: %s", out)
	}
	if w.read("compose.yaml") != shopFile || w.read("compose.yaml.changed-drover") != shopMoved+"# mine\n" {
		t.Error("a file is lost")
	}
}

// TestCopyFails: a failed import can be repeated, and undone.
func TestCopyFails(t *testing.T) {
	w := shop(t)
	w.fail["import"] = dataset.Errorf(dataset.ErrNoSpace, "the pool is full")
	if err := w.run(adopt...); !errors.Is(err, dataset.ErrNoSpace) || !strings.Contains(err.Error(), "--undo goes back") {
		t.Fatal(err)
	}
	if err := w.run("shop", "--profile", "silver", "--yes"); !errors.Is(err, dataset.ErrConflict) {
		t.Errorf("with other flags: %v", err)
	}
	if err := w.run("shop", "--confirm"); !errors.Is(err, dataset.ErrConflict) {
		t.Errorf("confirm: %v", err)
	}
	w.fail["import"] = nil
	w.must(adopt...)
	w.wantMoved()
}

// TestOneRun: two runs for one project do not work at the same time.
func TestOneRun(t *testing.T) {
	w := shop(t)
	unlock, err := safefile.Lock(t.Context(), w.journal()+".lock", 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.run(adopt...); !errors.Is(err, dataset.ErrInUse) || !strings.Contains(err.Error(), "another drover adopt-project shop runs") {
		t.Errorf("got %v", err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	w.must(adopt...)
}

// TestForeignVolumes: a volume with the name of a new one, which somebody made meanwhile, is neither used nor removed.
func TestForeignVolumes(t *testing.T) {
	w := shop(t)
	w.adoptKilledAt("copy")
	w.volumes["shop-data"] = api.Volume{}
	if err := w.run(adopt...); !errors.Is(err, dataset.ErrExists) {
		t.Errorf("a volume of Drover: %v", err)
	}
	if out := w.must("shop", "--undo", "--yes"); strings.Contains(out, "shop-data") {
		t.Errorf("undo suggests to remove a volume of somebody else: %s", out)
	}

	w = shop(t)
	w.must(adopt...)
	w.must("shop", "--confirm")
	w.killAt = 6 // after the stop
	_ = w.run("shop", "--leave", "--yes")
	w.killAt = 0
	for _, name := range []string{"shop_html", "shop_data-2", "shop_later"} {
		w.local[name] = Volume{Name: name, Driver: "local"}
		w.write(filepath.Join(w.folder("local", name), "mine"), "")
	}
	if err := w.run("shop", "--leave", "--yes"); !errors.Is(err, dataset.ErrExists) || slices.Contains(w.noted, "RemoveVolume") {
		t.Errorf("a local volume: %v, %v", err, w.noted)
	}
	if out := w.must("shop", "--undo", "--yes"); strings.Contains(out, "docker volume rm") {
		t.Errorf("undo suggests to remove a volume of somebody else: %s", out)
	}

	w = shop(t)
	w.adoptKilledAt("stop")
	w.local["shop_later"] = Volume{Name: "shop_later", Driver: "local"}
	if err := w.run(adopt...); !errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), "volume shop_later was created since the plan") {
		t.Errorf("an old volume that did not exist: %v", err)
	}
}

// TestContainersThatFail: the command fails if a container does not stay up, and --undo works.
func TestContainersThatFail(t *testing.T) {
	w := shop(t)
	m := &mover{j: &Journal{Project: Project{Name: "shop"}}}
	services := map[string]int{"db": 1, "web": 2}
	for state, want := range map[string]string{
		"restarting": "it is restarting", "running": "service web has 1 of 2 containers", "exited": "it is exited",
	} {
		w.containers[0].State = state
		if got := m.notRunning(w.containers, services); !strings.Contains(got, want) {
			t.Errorf("%s: %q", state, got)
		}
	}
	w.containers[0].State, w.containers[0].Health = "running", "unhealthy"
	if got := m.notRunning(w.containers, services); !strings.Contains(got, "not healthy") {
		t.Errorf("unhealthy: %q", got)
	}
}
