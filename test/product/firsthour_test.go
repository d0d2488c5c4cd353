package product

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

// testFirstHour: what surprises people in their first hour with volume plugins. Each case is a row of the table in
// the README.
func testFirstHour(t *testing.T, w *world) {
	// docker run with some options makes nothing of Drover's.
	local := func(t *testing.T, args ...string) engine.Result {
		t.Helper()
		r := w.e.Docker(t, append(append([]string{"run", "--rm"}, args...), image, "true")...)
		w.wantVolumes(t)
		return r
	}
	// driver returns the driver of the only named volume that the engine knows, and removes the volume.
	driver := func(t *testing.T, filter string) string {
		t.Helper()
		lines := strings.Fields(w.docker(t, "volume", "ls", "--format", "{{.Driver}} {{.Name}}", "-f", filter))
		if len(lines) != 2 {
			t.Fatalf("volumes with %s: %q", filter, lines)
		}
		w.docker(t, "volume", "rm", lines[1])
		return lines[0]
	}

	t.Run("no volume-driver, with a profile", func(t *testing.T) {
		r := local(t, "-v", "db@gold:/data")
		if want := `create db@gold: "db@gold" includes invalid characters for a local volume name`; r.Exit != 125 || !strings.Contains(r.Stderr, want) {
			t.Errorf("exit %d, %s, want %s", r.Exit, r.Stderr, want)
		}
	})
	t.Run("no volume-driver, without a profile", func(t *testing.T) {
		if r := local(t, "-v", "db:/data"); r.Exit != 0 {
			t.Error(r)
		}
		if got := driver(t, "name=db"); got != "local" {
			t.Errorf("driver %s, want local", got)
		}
	})
	t.Run("mount without volume-driver", func(t *testing.T) {
		r := local(t, "--mount", "type=volume,source=db,target=/data", "--volume-driver", w.h.Driver)
		if r.Exit != 0 {
			t.Error(r)
		}
		if got := driver(t, "name=db"); got != "local" {
			t.Errorf("driver %s, want local", got)
		}
	})
	t.Run("mount without volume-driver, with a profile", func(t *testing.T) {
		r := local(t, "--mount", "type=volume,source=db@gold,target=/data", "--volume-driver", w.h.Driver)
		if want := `"db@gold" includes invalid characters for a local volume name`; r.Exit != 125 || !strings.Contains(r.Stderr, want) {
			t.Errorf("exit %d, %s, want %s", r.Exit, r.Stderr, want)
		}
	})
	t.Run("mount with volume-driver", func(t *testing.T) {
		mount := "type=volume,source=db@gold,target=/data,volume-opt=size=5GiB,volume-driver=" + w.h.Driver
		w.docker(t, "run", "--rm", "--mount", mount, image, "true")
		if st := w.inspect(t, "db@gold"); st.Driver != w.h.Driver || st.Status.Size != 5<<30 {
			t.Errorf("%+v", st)
		}
		w.docker(t, "volume", "rm", "db@gold")
	})
	t.Run("a name of one letter", func(t *testing.T) {
		// Windows takes -v a:/data for a drive.
		r := local(t, "-v", "a:/data", "--volume-driver", w.h.Driver)
		if got := w.docker(t, "volume", "ls", "-q", "-f", "name=^a$"); got != "" {
			t.Errorf("there is a volume %s; %v", got, r)
		}
		w.refused(t, `drover: bad volume name "a": expected 2 to 128`, "volume", "create", "-d", w.h.Driver, "a")
	})
	t.Run("a VOLUME of the image", func(t *testing.T) { testNameless(t, w) })
	t.Run("prune ignores plugins", func(t *testing.T) {
		w.docker(t, "volume", "create", "-d", w.h.Driver, "unused")
		w.docker(t, "volume", "prune", "-f")
		w.docker(t, "system", "prune", "-f", "--volumes")
		w.wantVolumes(t, "unused")
		w.docker(t, "volume", "rm", "unused")
	})
	t.Run("create of an existing name without a driver", func(t *testing.T) {
		w.docker(t, "volume", "create", "-d", w.h.Driver, "taken")
		w.refused(t, "already has volume", "volume", "create", "taken")
		w.docker(t, "volume", "rm", "taken")
	})
	t.Run("options of an existing name", func(t *testing.T) {
		w.docker(t, "volume", "create", "-d", w.h.Driver, "-o", "size=1GiB", "there")
		w.docker(t, "volume", "create", "-d", w.h.Driver, "-o", "size=2GiB", "-o", "nonsense=1", "there")
		if st := w.inspect(t, "there").Status; st.Size != 1<<30 {
			t.Errorf("size %d, want what the first create said", st.Size)
		}
		r := w.h.Exec(t, "volume", "create", "there", "-o", "size=2GiB")
		if want := "drover: volume \"there\" exists with size 1GiB, not 2GiB (drover volume resize there 2GiB)\n"; r.Exit != 1 || r.Err != want {
			t.Errorf("drover volume create: exit %d, %q, want %q", r.Exit, r.Err, want)
		}
		// A name that this engine has not used is sent with its options, which are refused if they contradict the
		// volume.
		w.refused(t, `volume "there" exists with profile bronze, not gold`, "volume", "create", "-d", w.h.Driver, "there@gold")
		w.drover(t, "volume", "resize", "there", "2GiB")
		if st := w.inspect(t, "there").Status; st.Size != 2<<30 {
			t.Errorf("size %d after resize", st.Size)
		}
		w.docker(t, "volume", "rm", "there")
	})
}

// testNameless: --volume-driver also applies to the volumes that the image declares.
func testNameless(t *testing.T, w *world) {
	nameless := func() []string {
		t.Helper()
		return slices.DeleteFunc(w.h.Volumes(t), func(v string) bool { return v == "db" })
	}
	w.docker(t, "run", "--name", "left", "-v", "db@gold:/other", "--volume-driver", w.h.Driver, image, "true")
	w.docker(t, "rm", "left")
	w.docker(t, "volume", "prune", "-f")
	left := nameless()
	if len(left) != 1 || len(left[0]) != 64 {
		t.Fatalf("without a name: %q", left)
	}
	trash := w.drover(t, "trash", "ls", "-q")
	w.docker(t, "volume", "rm", left[0])
	host.Await(t, "it is destroyed, and not in the trash", func() error {
		if now := w.drover(t, "trash", "ls", "-q"); now != trash {
			return fmt.Errorf("in the trash: %s, before %s", now, trash)
		}
		return nil
	})
	w.docker(t, "run", "--name", "gone", "-v", "db@gold:/other", "--volume-driver", w.h.Driver, image, "true")
	w.docker(t, "rm", "-v", "gone")
	w.docker(t, "run", "--rm", "-v", "db@gold:/other", "--volume-driver", w.h.Driver, image, "true")
	w.wantVolumes(t, "db")

	var st unix.Statfs_t
	require.NoError(t, unix.Statfs(w.h.Root, &st))
	ballast, err := os.Create(filepath.Join(w.h.Root, "ballast"))
	require.NoError(t, err)
	require.NoError(t, errors.Join(unix.Fallocate(int(ballast.Fd()), 0, 0, int64(st.Bavail)*st.Bsize-16<<20), ballast.Close()))
	w.refused(t, "nearly full", "run", "--rm", "-v", "db@gold:/other", "--volume-driver", w.h.Driver, image, "true")
	w.docker(t, "run", "--rm", "--mount", "type=volume,source=db@gold,target=/other,volume-driver="+w.h.Driver, image, "true")
	require.NoError(t, os.Remove(ballast.Name()))
	w.docker(t, "volume", "rm", "db@gold")
}

// testFirstHourCompose: Compose refuses "@" in the key of a volume, and puts the project's name before a key without
// name:.
func testFirstHourCompose(t *testing.T, w *world) {
	const key = `
services:
  cache: {image: drover-redis, network_mode: none, volumes: ["data@gold:/data"]}
volumes:
  data@gold: {driver: DRIVER}
`
	p := w.project(t, "hour", key)
	if r := p.try(t, "up", "-d"); r.Exit == 0 || !strings.Contains(r.Stderr, "data@gold") {
		t.Errorf("a key with @: %v", r)
	}
	w.wantVolumes(t)
	p.write(t, `
services:
  cache: {image: drover-redis, network_mode: none, volumes: ["data:/data"]}
volumes:
  data: {driver: DRIVER, driver_opts: {profile: gold}}
`)
	p.must(t, "up", "-d")
	w.wantVolumes(t, "hour_data")

	// After an option has changed, Compose asks. "No" keeps the volume, and "yes" puts it into the trash.
	id := w.inspect(t, "hour_data").Status.Dataset
	p.write(t, `
services:
  cache: {image: drover-redis, network_mode: none, volumes: ["data:/data"]}
volumes:
  data: {driver: DRIVER, driver_opts: {profile: gold, size: 25GiB}}
`)
	if r := p.try(t, "up", "-d"); !strings.Contains(r.Stdout+r.Stderr, "Recreate (data will be lost)?") || w.inspect(t, "hour_data").Status.Dataset != id {
		t.Errorf("no answer: %v", r)
	}
	p.must(t, "up", "-d", "-y")
	if st := w.inspect(t, "hour_data").Status; st.Dataset == id || st.Size != 25<<30 {
		t.Errorf("after a yes: %+v", st)
	}
	if got := w.drover(t, "trash", "ls", "-q"); !strings.Contains(got, id) {
		t.Errorf("in the trash: %s, want %s", got, id)
	}
	p.must(t, "down", "-v")
	w.wantVolumes(t)
}
