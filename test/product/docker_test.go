package product

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
)

// TestDockersHabits: one engine and one Drover serve all tests that do not disturb them.
func TestDockersHabits(t *testing.T) {
	w := begin(t, host.Options{Profiles: threeProfiles}, engine.Options{})
	t.Run("B1", func(t *testing.T) { testB1(t, w) })
	t.Run("B12", func(t *testing.T) { testB12(t, w) })
	t.Run("B17", func(t *testing.T) { testB17(t, w) })
	t.Run("B17 promoted", func(t *testing.T) { testPromoted(t, w) })
	t.Run("B17 anonymous", func(t *testing.T) { testB17Anonymous(t, w) })
	t.Run("B17 profile gone", func(t *testing.T) { testB17ProfileGone(t, w) })
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

// testPromoted: a volume whose pool chose the filesystem gets a profile that names the filesystem.
func testPromoted(t *testing.T, w *world) {
	w.run(t, "climber", "rise@bronze")
	w.drover(t, "volume", "set-profile", "rise", "gold")
	if st := w.inspect(t, "rise@bronze").Status; st.Profile != "gold" {
		t.Errorf("status after set-profile: %+v", st)
	}
	w.docker(t, "restart", "climber")
	w.docker(t, "rm", "-f", "climber")
	w.docker(t, "volume", "rm", "rise@bronze")
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
	for range long.Rounds(40, 100) {
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

// testB17ProfileGone: a volume keeps the settings of its profile after the profile was removed.
func testB17ProfileGone(t *testing.T, w *world) {
	w.run(t, "keeper", "shop@gold")
	file := filepath.Join(w.h.Dir, "profiles.yaml")
	if err := os.WriteFile(file, []byte("default: bronze\nprofiles: {bronze: {}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(w.h.PID(), unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	host.Await(t, "the profiles are read again", func() error {
		if got := w.drover(t, "profile", "ls", "-q"); got != "bronze" {
			return fmt.Errorf("there are %q", got)
		}
		return nil
	})
	w.docker(t, "restart", "keeper")
	w.wantUses(t, "shop@gold", 1, 1)
	if st := w.inspect(t, "shop@gold").Status; st.Profile != "gold" || st.Size != 20<<30 {
		t.Errorf("status: %+v", st)
	}
	w.refused(t, "volume is in use", "volume", "rm", "shop@gold")
	w.refused(t, `unknown profile "gold" (available: bronze)`, "volume", "create", "-d", w.h.Driver, "other@gold")
	w.docker(t, "rm", "-f", "keeper")
	w.docker(t, "volume", "rm", "shop@gold")
}
