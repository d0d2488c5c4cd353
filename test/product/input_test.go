package product

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
)

// wrong is a refused input: the arguments of docker volume create after the driver, and the text after "create NAME:
// VolumeDriver.Create: drover: ". The engine chooses the name of the call.
type wrong struct {
	args []string
	want string
}

const (
	wantName    = "expected 2 to 128 letters, digits, '_', '.' or '-', with a letter or digit first"
	wantProfile = "expected 1 to 63 lower-case letters, digits or '-', with a letter or digit first, and not snapshot"
	meantGold   = `(available: bronze, gold, silver); did you mean gold?`
	wantPrefix  = "expected 4 to 36 characters of a snapshot's or dataset's UUID (hex digits and '-'; drover snapshot ls and volume ls show them)"
	haveOptions = `(available: from, fs, label.KEY, mode, node, owner, pool, profile, protect, readonly, schedules, size)`
	haveUnits   = "(available: K M G T and KiB MiB GiB TiB, binary; KB MB GB TB, decimal; B)"
	seeAll      = `(use drover snapshot ls, volume ls and trash ls)`
)

func wrongs() []wrong {
	opt := func(option, want string) wrong { return wrong{[]string{"-o", option, "db"}, want} }
	name := func(name, want string) wrong { return wrong{[]string{"--", name}, want} }
	return []wrong{
		name("db@glod", `unknown profile "glod" `+meantGold),
		name("db@", `bad profile name "": `+wantProfile+` (available: bronze, gold, silver)`),
		name("db@Gold", `bad profile name "Gold": `+wantProfile+" "+meantGold),
		opt("profile=glod", `unknown profile "glod" `+meantGold),
		opt("profile=Gold", `bad profile name "Gold": `+wantProfile+" "+meantGold),
		{[]string{"-o", "profile=silver", "db@gold"}, `volume "db@gold": the name has profile gold, option profile has silver (use only one)`},

		opt("sise=5GiB", `unknown option "sise", did you mean size? `+haveOptions),
		opt("=5", `unknown option "" `+haveOptions),
		opt("fs=zfs", `option fs="zfs": unknown filesystem (available: ext4, xfs)`),
		opt("owner=mysql", `option owner="mysql": expected UID:GID in numbers, such as 999:999`),
		opt("mode=99", `bad mode "99": expected octal permission bits, such as 0750`),
		opt("protect=maybe", `option protect="maybe": expected true or false`),
		opt("label.=x", `bad label key "": expected 1 to 63 letters, digits, '_', '.', '/' or '-', with a letter or digit first`),
		opt("pool=fast", `unknown pool "fast" (available: default)`),

		opt("size=0", `bad size "0": expected more than 0 (omit the size for no limit)`),
		opt("size=1KiB", `volume db: 1KiB is too small for ext4, which needs 16MiB`),
		opt("size=5", `bad size "5": a bare number is ambiguous (use 5GiB for gibibytes or 5B for bytes)`),
		opt("size=5XB", `bad size "5XB": unknown unit "XB" `+haveUnits),
		opt("size=-5GiB", `bad size "-5GiB": expected a number and a unit, such as 20GiB, 512M or 100GB`),
		opt("size=0GiB", `bad size "0GiB": expected more than 0 (omit the size for no limit)`),
		opt("size=1MiB", `volume db: 1MiB is too small for ext4, which needs 16MiB`),
		{[]string{"-o", "fs=xfs", "-o", "size=299MiB", "db"}, `volume db: 299MiB is too small for xfs, which needs 300MiB`},
		opt("size=17TiB", "volume db: pool default cannot satisfy profile bronze: it has 63.9GiB in all, less than 17TiB (choose a smaller size or another profile, or enlarge the pool)"),

		name("db@snapshot", `spec "db@snapshot": no UUID after @snapshot (use db@snapshot-f23ca986, with 4 to 36 characters of a snapshot's or dataset's UUID)`),
		name("db@snapshot-", `bad UUID prefix "": `+wantPrefix),
		name("db@snapshot-abc", `bad UUID prefix "abc": `+wantPrefix),
		name("db@snapshot-zzzz", `bad UUID prefix "zzzz": `+wantPrefix),
		name("db@snapshot-00000000-ffff", `no snapshot or dataset "00000000-ffff" `+seeAll),
		opt("from=nothing", `no volume, snapshot or dataset "nothing" `+seeAll),
		opt("from=", "option from is empty: expected a volume, a snapshot, or 4 to 36 characters of a UUID"),

		name("x", `bad volume name "x": `+wantName),
		name("y@golden", `bad volume name "y": `+wantName+`; and unknown profile "golden" `+meantGold),
		name("@gold", `bad volume name "": `+wantName),
		name("a/b", `bad volume name "a/b": `+wantName),
		name("..", `bad volume name "..": `+wantName),
		name("../../etc/cron.d", `bad volume name "../../etc/cron.d": `+wantName),
		name("-rf", `bad volume name "-rf": `+wantName),
		name(".hidden", `bad volume name ".hidden": `+wantName),
		name("two words", `bad volume name "two words": `+wantName),
		name("ä", `bad volume name "ä": `+wantName),
		name(strings.Repeat("n", 129), `bad volume name "`+strings.Repeat("n", 129)+`": `+wantName),
	}
}

// TestA10I6: a wrong word gets one line, through the engine's error output, that says what is wrong and what would be
// right. Nothing has changed.
func TestA10I6(t *testing.T) {
	w := begin(t, host.Options{}, engine.Options{})
	before, records := w.everything(t), w.records(t)
	for _, c := range wrongs() {
		name := c.args[len(c.args)-1]
		r := w.e.Docker(t, append([]string{"volume", "create", "-d", w.h.Driver}, c.args...)...)
		want := "Error response from daemon: create " + name + ": VolumeDriver.Create: drover: " + c.want + "\n"
		if got := anyUUID(r.Stderr); r.Exit != 1 || got != want {
			t.Errorf("volume create %q: exit %d\n got %swant %s", c.args, r.Exit, got, want)
		}
	}
	if after := w.records(t); after != records {
		t.Errorf("something is left on record: %s, and before it %s", after, records)
	}
	for _, c := range wrongs() {
		r := w.h.Exec(t, append([]string{"volume", "create"}, c.args...)...)
		if got := anyUUID(r.Err); r.Exit == 0 || !strings.HasPrefix(got, "drover: ") || strings.Count(got, "\n") != 1 {
			t.Errorf("drover volume create %q: exit %d, %q", c.args, r.Exit, got)
		}
	}
	for _, args := range [][]string{
		{"-v", "db@glod:/data", "--volume-driver", w.h.Driver},
		{"--mount", "type=volume,source=db@glod,target=/data,volume-driver=" + w.h.Driver},
	} {
		r := w.e.Docker(t, append(append([]string{"run", "--rm"}, args...), image, "true")...)
		line, _, _ := strings.Cut(r.Stderr, "\n")
		if want := `docker: Error response from daemon: create db@glod: VolumeDriver.Create: drover: unknown profile "glod" ` + meantGold; r.Exit != 125 || strings.TrimSuffix(line, ".") != want {
			t.Errorf("run %q: exit %d, %q, want 125 and %q", args, r.Exit, line, want)
		}
	}
	if got := w.docker(t, "ps", "-aq"); got != "" {
		t.Errorf("containers are left: %s", got)
	}
	if after := w.everything(t); after != before {
		t.Errorf("something of the request is left\nbefore: %s\nafter:  %s", before, after)
	}
	w.h.Clean(t)
	testHelp(t, w)
}

// testHelp: -o help lists the options, and makes nothing.
func testHelp(t *testing.T, w *world) {
	r := w.e.Docker(t, "volume", "create", "-d", w.h.Driver, "-o", "help", "db")
	for _, want := range []string{"create db: VolumeDriver.Create: drover: options:", "size=SIZE", "label.KEY=VALUE", "profiles:", "gold ", "silver ", "bronze "} {
		if r.Exit == 0 || !strings.Contains(r.Stderr, want) {
			t.Errorf("-o help says nothing of %q: exit %d, %s", want, r.Exit, r.Stderr)
		}
	}
	w.wantVolumes(t)
}

// TestA10Backend: a request that a pool cannot fulfil is refused with the reason, and not fulfilled in part.
func TestA10Backend(t *testing.T) {
	w := begin(t, host.Options{Pool: "dir"}, engine.Options{})
	var pools []dataset.Pool
	w.h.JSON(t, &pools, "pool", "ls")
	if len(pools) != 1 || len(pools[0].MissingFeatures) != 1 || !strings.HasPrefix(pools[0].MissingFeatures[0], "sizes need ") {
		t.Fatalf("%+v", pools)
	}
	mend := `: on its node ` + pools[0].MissingFeatures[0] + `, and then a restart of drover` // depending on whether this kernel has project quotas
	before, records := w.everything(t), w.records(t)
	for _, c := range []wrong{
		{[]string{"db@gold"}, "volume db: pool default cannot satisfy profile gold: it cannot take snapshots " +
			"without copying"},
		{[]string{"-o", "size=5GiB", "db"}, "volume db: pool default cannot satisfy profile bronze: it cannot " +
			"enforce a size" + mend},
		{[]string{"-o", "fs=xfs", "db"}, "volume db: pool default cannot satisfy profile bronze: it has no filesystem xfs inside volumes"},
	} {
		w.refused(t, "create "+c.args[len(c.args)-1]+": VolumeDriver.Create: drover: "+c.want+"\n", append([]string{"volume", "create", "-d", w.h.Driver}, c.args...)...)
	}
	if after := w.records(t); after != records {
		t.Errorf("something is left on record: %s, and before it %s", after, records)
	}
	if after := w.everything(t); after != before {
		t.Errorf("something of the request is left\nbefore: %s\nafter:  %s", before, after)
	}
}

var uuidRE = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)

func anyUUID(s string) string { return uuidRE.ReplaceAllString(s, "UUID") }

// records lists the contents of the store. A failed operation that the command line requested stays there for a
// while, so that people can see it.
func (w *world) records(t testing.TB) string {
	t.Helper()
	return fmt.Sprint(w.count(t, "drover_store_entries")) + " keys, operations " + w.drover(t, "operation", "ls", "-q")
}

// everything lists what a request could leave behind: the contents of the pool, the mounts, and what is shown to
// people.
func (w *world) everything(t testing.TB) string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(w.h.Root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.Name() == "templates": // of empty filesystems, made when they are first needed
			return filepath.SkipDir
		}
		files = append(files, strings.TrimPrefix(path, w.h.Root))
		return nil
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return fmt.Sprintf("files %v; mounts %v; volumes %v; trash %q; docker %q",
		files, w.mounts(t), w.h.Volumes(t), w.drover(t, "trash", "ls", "-q"), w.docker(t, "volume", "ls", "-q"))
}
