package product

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/lan"
	"github.com/droverhq/drover/test/volumes"
)

// TestDocker: one engine and one Drover serve all tests that do not disturb them.
func TestDocker(t *testing.T) {
	w := begin(t, host.Options{Profiles: volumes.Profiles}, engine.Options{})
	t.Run("volumes", func(t *testing.T) { volumes.Run(t, w.suite()) }) // test/cluster runs them in a cluster
	t.Run("B1", func(t *testing.T) { testB1(t, w) })
	t.Run("B12", func(t *testing.T) { testB12(t, w) })
	t.Run("B17", func(t *testing.T) { testB17(t, w) })
	t.Run("B17 anonymous", func(t *testing.T) { testB17Anonymous(t, w) })
	t.Run("I11 holders", func(t *testing.T) { testHolders(t, w) })
	t.Run("A3", func(t *testing.T) { testA3(t, w) })
	t.Run("first hour", func(t *testing.T) { testFirstHour(t, w) })
	t.Run("first hour of Compose", func(t *testing.T) { testFirstHourCompose(t, w) })
	t.Run("rename", func(t *testing.T) { testRename(t, w) })
}

// suite adapts the world to the suite of volumes.
func (w *world) suite() volumes.World {
	return volumes.World{Engine: w.e, Host: w.h, Name: "host-a", Admin: w.h, Servers: []*host.Host{w.h}}
}

const threeProfiles = `default: bronze
profiles:
  bronze: {on_delete: {trash: 1h}}
  silver: {size: 10GiB, on_delete: {trash: 1h}}
  gold: {size: 20GiB, filesystem: {type: xfs}, on_delete: {trash: 1h}}
`

// testB1: docker cp mounts again with the ID of the running container, and unmounts with it.
func testB1(t *testing.T, w *world) {
	const ticking = "while :; do echo tick >> /data/log; sleep 0.05; done"
	w.command(t, "one", "cpvol", ticking)
	dir := t.TempDir()
	for i := range 3 {
		w.docker(t, "cp", "/etc/hostname", fmt.Sprintf("one:/data/in-%d", i))
		w.docker(t, "cp", "one:/data/log", dir)
		w.wantUses(t, "cpvol", 1, 1)
	}
	w.awaitMore(t, "one", "/data/log")
	if got := w.docker(t, "exec", "one", "sh", "-c", "ls /data"); got != "in-0\nin-1\nin-2\nlog" {
		t.Errorf("the volume has %q", got)
	}
	w.docker(t, "stop", "one")
	w.wantUses(t, "cpvol", 0, 0)
	w.docker(t, "cp", "/etc/hostname", "one:/data/late")
	w.docker(t, "cp", "one:/data/log", dir)
	w.wantUses(t, "cpvol", 0, 0)
	if log, err := os.ReadFile(filepath.Join(dir, "log")); err != nil || !strings.HasPrefix(string(log), "tick\n") {
		t.Errorf("what was copied out: %q, %v", log, err)
	}
	w.docker(t, "rm", "one")
	w.docker(t, "volume", "rm", "cpvol")
}

// testB12: the files of an image, with the owner and mode of their folder, are copied into a new volume. With nocopy
// they are not.
func testB12(t *testing.T, w *world) {
	w.docker(t, "run", "--name", "seed", "--tmpfs", "/data", image, "sh", "-c",
		"mkdir /seed /none && echo hello > /seed/file && chown 5:6 /seed/file && chmod 0640 /seed/file && chown 123:456 /seed /none && chmod 0710 /seed && chmod 1730 /none")
	w.docker(t, "commit", "seed", "seeded")
	w.docker(t, "rm", "seed")
	look := func(mount string) string {
		t.Helper()
		target := strings.Split(mount, ":")[1]
		return w.docker(t, "run", "--rm", "--tmpfs", "/data", "-v", mount, "--volume-driver", w.h.Driver, "seeded",
			"sh", "-c", "cd "+target+"; stat -c '%n %u:%g %a' . *; cat file 2>/dev/null || true")
	}
	for mount, want := range map[string]string{
		"up1@gold:/seed":        ". 123:456 710\nfile 5:6 640\nhello",
		"up2@bronze:/seed":      ". 123:456 710\nfile 5:6 640\nhello",
		"up3:/none":             ". 123:456 1730",
		"up4@gold:/seed:nocopy": ". 0:0 755",
		"up5:/seed:nocopy":      ". 0:0 755",
	} {
		if got := look(mount); got != want {
			t.Errorf("%s: got %q, want %q", mount, got, want)
		}
	}
	// Existing files of the volume are not replaced by files of the image.
	w.once(t, "up1@gold", "echo mine > /data/file")
	if got := look("up1@gold:/seed"); !strings.HasSuffix(got, "mine") {
		t.Errorf("the second container sees %q, want what the first wrote", got)
	}
	// Data that was requested with the volume is there without the help of an image.
	w.docker(t, "volume", "create", "-d", w.h.Driver, "-o", "owner=70:71", "-o", "mode=2750", "up6@gold")
	if got, want := look("up6@gold:/seed:nocopy"), ". 70:71 2750"; !strings.HasPrefix(got, want) {
		t.Errorf("owner and mode of up6: %q, want %q", got, want)
	}
	w.docker(t, append([]string{"volume", "rm"}, strings.Fields(w.docker(t, "volume", "ls", "-q", "-f", "driver="+w.h.Driver))...)...)
}

// testB17: a spelling that the engine has used continues to work, whatever happens to the profile. A spelling that it
// has never used does not find the volume.
func testB17(t *testing.T, w *world) {
	w.run(t, "keeper", "shop@gold")
	w.docker(t, "exec", "keeper", "sh", "-c", "echo kept > /data/file")
	w.drover(t, "volume", "set-profile", "shop", "silver")
	w.docker(t, "restart", "keeper")
	if got := w.docker(t, "exec", "keeper", "cat", "/data/file"); got != "kept" {
		t.Errorf("after the restart: %q", got)
	}
	if st := w.inspect(t, "shop@gold").Status; st.Profile != "silver" || st.Volume != "shop" {
		t.Errorf("status after set-profile: %+v", st)
	}
	w.wantUses(t, "shop@gold", 1, 1)
	w.refused(t, "volume is in use", "volume", "rm", "shop@gold")
	for _, state := range []string{"running", "stopped", "stopped, after the engine's restart"} {
		if got := w.docker(t, "volume", "ls", "-q", "-f", "dangling=true"); got != "" {
			t.Errorf("dangling while its container is %s: %s", state, got)
		}
		if got := w.docker(t, "volume", "ls", "-q", "-f", "driver="+w.h.Driver); got != "shop@gold" {
			t.Errorf("listed while its container is %s: %s", state, got)
		}
		w.refused(t, "volume is in use", "volume", "rm", "shop@gold")
		if state == "stopped" {
			w.e.Restart(t)
		} else {
			w.docker(t, "stop", "keeper")
		}
	}
	// The engine asks for the name before it removes it. The stopped container needs the other name, so only the name
	// is forgotten, and the volume stays.
	w.docker(t, "volume", "rm", "shop")
	w.wantVolumes(t, "shop")
	w.docker(t, "rm", "keeper")
	w.docker(t, "volume", "rm", "shop@gold")
	w.wantVolumes(t)
}

// testB17Anonymous: anonymous volumes leave nothing, not even in the trash.
func testB17Anonymous(t *testing.T, w *world) {
	w.drover(t, "trash", "purge", "--all", "--yes")
	var wg sync.WaitGroup
	turns := make(chan struct{}, 4)
	for range long.Rounds(12, 100) {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			r := w.e.Docker(t, "run", "--rm", "--volume-driver", w.h.Driver, image, "sh", "-c", "echo x > /data/file && df -P /data | tail -1")
			if r.Exit != 0 || !strings.Contains(r.Stdout, "/data") {
				t.Errorf("exit %d: %v", r.Exit, r)
			}
		})
	}
	wg.Wait()
	w.wantVolumes(t)
	host.Await(t, "nothing is left of them", func() error {
		datasets := w.datasets(t)
		if trash := w.drover(t, "trash", "ls", "-q"); len(datasets) > 0 || trash != "" {
			return fmt.Errorf("in the pool: %v; in the trash: %q", datasets, trash)
		}
		return nil
	})
}

// testHolders: the refusal of a volume in use names the container and the command that stops it.
func testHolders(t *testing.T, w *world) {
	t.Setenv("DOCKER_HOST", w.e.Host)
	w.run(t, "web", "held")
	id := w.docker(t, "inspect", "-f", "{{.Id}}", "web")[:12]
	w.wantRefusal(t, "held", "docker container web ("+id+") at /data: process ", "; to free it: docker stop web\n")
	want := "docker container web (" + id + ") at /data: process "
	if out := w.drover(t, "volume", "inspect", "held"); !strings.Contains(out, want) {
		t.Errorf("volume inspect does not show %q:\n%s", want, out)
	}
	// If no engine answers, the ID must suffice.
	t.Setenv("DOCKER_HOST", "unix://"+filepath.Join(t.TempDir(), "none.sock"))
	w.wantRefusal(t, "held", "docker container "+id+" at /data: process ", "; to free it: docker stop "+id+"\n")
	w.docker(t, "rm", "-f", "web")
	w.docker(t, "volume", "rm", "held")
}

// wantRefusal fails unless drover volume rm fails, and prints all of words.
func (w *world) wantRefusal(t *testing.T, volume string, words ...string) {
	t.Helper()
	r := w.h.Exec(t, "volume", "rm", volume)
	for _, word := range words {
		if r.Exit != 1 || !strings.Contains(r.Err, word) {
			t.Errorf("drover volume rm: exit %d, and no %q in:\n%s", r.Exit, word, r.Err)
		}
	}
}

// TestSwarmLabels: facts become labels of the Swarm's node. Services are placed by these labels, and not where the
// labels do not match.
func TestSwarmLabels(t *testing.T) {
	h := host.Start(t, host.Options{Down: true, Flags: []string{"--publish-facts", "swarm"}, Config: "labels: {rack: r1}\npools: [{name: fast, backend: dir, path: $DIR/fast}]\n"})
	m := lan.New(t).Machine("alone", nil)
	e := engine.Start(t, engine.Options{On: m})
	e.Must(t, "swarm", "init", "--advertise-addr", m.IP)
	id := strings.TrimSpace(e.Must(t, "node", "ls", "-q"))
	e.Must(t, "node", "update", "--label-add", "mine=kept", "--label-add", "drover.pool.gone=true", id)
	h.Env = append(h.Env, "DOCKER_HOST="+e.Host)
	h.Up(t)
	label := func(name string) string {
		return strings.TrimSpace(e.Must(t, "node", "inspect", "--format", `{{index .Spec.Labels "`+name+`"}}`, "self"))
	}
	for end := time.Now().Add(3 * time.Minute); label("drover.pool.fast") != "true"; time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(e.Must(t, "node", "inspect", "self"))
		}
	}
	var nodes []api.Node
	host.Await(t, "the facts are recorded", func() error {
		if h.JSON(t, &nodes, "node", "ls"); len(nodes) != 1 || nodes[0].Facts == nil {
			return fmt.Errorf("%+v", nodes)
		}
		return nil
	})
	for name, want := range map[string]string{
		"mine": "kept", "drover.pool.gone": "", "drover.label.rack": "r1", "drover.architecture": nodes[0].Facts.Architecture, "drover.node": "host-a",
		"drover.engine_version": e.Must(t, "version", "--format", "{{.Server.Version}}"),
	} {
		if got := label(name); got != strings.TrimSpace(want) {
			t.Errorf("label %s is %q, not %q", name, got, want)
		}
	}
	service := func(name, constraint string) {
		e.Must(t, "service", "create", "--detach", "--no-resolve-image", "--network", "host", "--name", name, "--constraint", constraint, image, "sleep", "infinity")
	}
	service("fast", "node.labels.drover.pool.fast==true")
	service("slow", "node.labels.drover.pool.fast!=true")
	service("calm", "node.labels.drover.load_10==-1")
	state := func(name string) string {
		return e.Must(t, "service", "ps", "--format", "{{.CurrentState}} {{.Error}}", name)
	}
	for end := time.Now().Add(2 * time.Minute); !strings.HasPrefix(state("fast"), "Running"); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the service whose constraint holds: %s", state("fast"))
		}
	}
	for _, name := range []string{"slow", "calm"} {
		if got := state(name); !strings.HasPrefix(got, "Pending") || !strings.Contains(got, "no suitable node") {
			t.Errorf("service %s, whose constraint does not hold: %s", name, got)
		}
	}
	e.Must(t, "service", "rm", "fast", "slow", "calm")
	e.Must(t, "swarm", "leave", "--force")
}
