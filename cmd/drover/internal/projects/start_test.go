package projects

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/droverhq/drover/dataset"
)

// wantMount fails unless the first mount of a service's container is of a volume.
func (w *world) wantMount(service, state, volume string) {
	w.t.Helper()
	for _, c := range w.containers {
		if c.Service == service && (c.State != state || c.Mounts[0].Name != volume) {
			w.t.Errorf("service %s: %s with %s, want %s with %s", service, c.State, c.Mounts[0].Name, state, volume)
		}
	}
}

// TestOldContainersAreNotStarted: if Docker Compose keeps a container, the move fails before it starts the container
// with the old data.
func TestOldContainersAreNotStarted(t *testing.T) {
	w := shop(t)
	w.keepsContainers = true
	err := w.run(adopt...)
	if !errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), "docker rm -f shop-") || slices.Contains(w.noted, "Up") {
		t.Fatalf("%v, after %v", err, w.noted)
	}
	w.containers = slices.DeleteFunc(w.containers, func(c Container) bool { return c.Project == "shop" && c.Service == "db" })
	w.keepsContainers = false
	w.must(adopt...)
	w.wantMoved()
}

// TestOldDataAfterStart: if a container uses the old data after the start, the project is stopped, and the move fails.
func TestOldDataAfterStart(t *testing.T) {
	w := shop(t)
	old := w.containers[0]
	w.afterUp = func() {
		w.containers = slices.DeleteFunc(w.containers, func(c Container) bool { return c.Name == old.Name })
		w.containers = append(w.containers, old)
	}
	err := w.run(adopt...)
	if !errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), "container shop-db-1 does not mount at") {
		t.Errorf("got %v", err)
	}
	for _, c := range w.containers {
		if c.Running() {
			t.Errorf("container %s runs", c.Name)
		}
	}
	w.afterUp = nil
	w.must("shop", "--undo", "--yes")
	w.wantBack()
}

// TestRestartedBeforeStart: the engine started the old containers at a boot, after the files were exchanged, and they
// wrote. The new volumes lack that, so they are not used.
func TestRestartedBeforeStart(t *testing.T) {
	w := shop(t)
	w.adoptKilledAt("start")
	w.write(filepath.Join(w.folder("local", "shop_data"), "rows"), "8")
	if err := w.run(adopt...); !errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), `"rows": `) {
		t.Errorf("got %v", err)
	}
	w.must("shop", "--undo", "--yes")
	w.wantBack()
}

// TestStoppedContainers: a container that does not run is recreated with the new volumes, and not started. --undo
// recreates it with the old ones.
func TestStoppedContainers(t *testing.T) {
	w := shop(t)
	w.containers[0].State = "exited"
	if out := w.must("shop", "--profile", "gold", "--dry-run"); !strings.Contains(out, "the containers of db do not run: they are recreated") {
		t.Errorf("the plan is\n%s", out)
	}
	w.must(adopt...)
	w.wantMount("db", "created", "shop-data@gold")
	w.wantMount("web", "running", "shop-html@gold")
	w.must("shop", "--undo", "--yes")
	w.wantMount("db", "created", "shop_data")

	w = shop(t)
	w.containers[0].State, w.containers[1].State = "exited", "exited"
	if out := w.must(adopt...); !strings.Contains(out, "no container ran") {
		t.Errorf("the output is\n%s", out)
	}
	w.wantMount("db", "created", "shop-data@gold")
	w.wantMount("web", "created", "shop-html@gold")
}

// TestUndoEnds: after --undo has restored the old Compose files, it starts the services that can start, and then ends
// even if others cannot.
func TestUndoEnds(t *testing.T) {
	for name, c := range map[string]struct {
		set   func(*world)
		says  string
		db    string
		moved bool // no container uses the old data
	}{
		"a service that the old files lack": {set: func(w *world) {
			w.write("compose.yaml", strings.Replace(shopMoved, "volumes:\n  data:", "  worker: {image: x}\nvolumes:\n  data:", 1))
			w.containers = append(w.containers, Container{Name: "shop-worker-1", Project: "shop", Service: "worker", State: "running", Labels: w.containers[0].Labels})
		}, says: "service worker is not in the old Compose files", db: "running"},
		"a job that ends":          {set: func(w *world) { w.states = map[string]string{"web": "exited"} }, says: "container shop-web-1 does not run", db: "running"},
		"a service that fails":     {set: func(w *world) { w.fail["Up web"] = errors.New("its port is taken") }, says: "did not start: web: its port is taken", db: "running"},
		"no recreation":            {set: func(w *world) { w.fail["Recreate web"] = errors.New("no image") }, says: "did not start: web: no image", db: "running"},
		"Compose fails":            {set: func(w *world) { w.fail["Config"] = errors.New("no compose") }, says: "no compose", moved: true, db: "exited"},
		"containers that it keeps": {set: func(w *world) { w.keepsContainers = true }, says: "so the project is stopped", moved: true, db: "exited"},
	} {
		t.Run(name, func(t *testing.T) {
			w := shop(t)
			w.must(adopt...)
			c.set(w)
			err := w.run("shop", "--undo", "--yes")
			if !errors.Is(err, dataset.ErrConflict) && name != "Compose fails" || !strings.Contains(err.Error(), c.says) ||
				!strings.Contains(err.Error(), "docker compose up -d --force-recreate") || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want %q", err, c.says)
			}
			if got := w.read("compose.yaml"); got != shopFile {
				t.Errorf("the Compose file is\n%s", got)
			}
			if _, err := os.Stat(w.journal()); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the journal: %v", err)
			}
			w.wantMount("db", c.db, map[bool]string{false: "shop_data", true: "shop-data@gold"}[c.moved])
		})
	}
}

// TestUndoWithoutDrover: --undo goes back although Drover does not answer.
func TestUndoWithoutDrover(t *testing.T) {
	down := dataset.Errorf(dataset.ErrUnavailable, "drover does not run")
	for _, place := range []string{"", "verify", "copied"} {
		w := shop(t)
		if place == "" {
			w.must(adopt...)
		} else {
			w.adoptKilledAt(place)
		}
		w.fail["Operation"], w.fail["Volume"] = down, down
		out := w.must("shop", "--undo", "--yes")
		if warned := strings.Contains(out, "may still run, and make the volume: drover does not run"); warned != (place != "") {
			t.Errorf("%s: %s", place, out)
		}
		w.wantBack()
	}
}

func TestVersion(t *testing.T) {
	for version, ok := range map[string]bool{
		"2.24.0": true, "v2.24.5-desktop.1": true, "2.40.3+ds1": true, "5.0.0": true, "2.23.3": false, "1.29.2": false,
		"": false, "dev": false, "99999999999999999999.1": false,
	} {
		w := shop(t)
		w.version = version
		if version == "" {
			w.version = " "
		}
		err := w.run("shop", "--profile", "gold", "--dry-run")
		if ok != (err == nil) || !ok && (!errors.Is(err, dataset.ErrUnsupported) || !strings.Contains(err.Error(), "2.24 or later")) {
			t.Errorf("%q: %v", version, err)
		}
	}
}
