package faults

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/test/host"
)

// campaign kills Drover at random moments of commands that use a repository.
type campaign struct {
	*world
	r      backupRepository
	random *rand.Rand

	took    map[string]time.Duration // about how long each kind of command takes without a kill
	backups map[string]string        // the content of each backup, by its ID
	newest  map[string]string        // the content of the newest backup of each volume
	pushed  string                   // the content of the newest version of the name "prod"
	last    int                      // number of the last content
	fates   map[string]int           // how often a kill interrupted a command, by what restic was doing
}

// attack is a command during which Drover is killed, with what must be true afterwards.
type attack struct {
	kind string
	// do runs the command. It is repeated after the kill, and succeeds also if the first attempt did all of the work.
	do func() host.Result
	// appears has the content of the volumes that the command makes. Until it has ended, they are absent or complete.
	appears map[string]string
	// ends checks the result after a run that was not interrupted. killed says that an earlier run was.
	ends func(t *testing.T, killed bool)
}

// Drover is killed at random moments of backups, restores, verifications, prunes, pushes, pulls and recoveries. restic
// dies with it, or lives on. After a restart, each operation ends. No volume is visible with a part of its files. The
// repository is valid, and the same command succeeds. DROVER_TEST_SEED and DROVER_TEST_KILLS choose the seed and the
// number of interrupted commands.
func TestKillsWhileBackingUp(t *testing.T) {
	seed := envNumber(t, "DROVER_TEST_SEED", int(time.Now().UnixNano()&0xffffff))
	kills := envNumber(t, "DROVER_TEST_KILLS", long.Rounds(2, 50))
	t.Logf("DROVER_TEST_SEED=%d DROVER_TEST_KILLS=%d", seed, kills)
	c := newCampaign(t, uint64(seed))
	kinds := []func(*testing.T) attack{
		c.backup, c.restore, c.prune, c.push, c.pull, c.verify, c.recover,
	}
	var order []func(*testing.T) attack
	start := time.Now()
	for n := 0; n < kills; {
		if len(order) == 0 {
			order = slices.Clone(kinds)
			c.random.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		}
		a := order[0](t)
		interrupted := c.kill(t, a)
		if t.Failed() {
			t.Fatalf("seed %d, interrupted commands: %d", seed, n)
		}
		if interrupted {
			n++
		}
		order = order[1:]
	}
	c.dropRestored(t)
	c.tidy(t)
	for _, a := range []attack{c.backup(t), c.restore(t)} {
		c.mustEnd(t, a, false)
	}
	c.valid(t)
	c.dropRestored(t)
	c.tidy(t)
	t.Logf("%d kills in %s: %v", kills, time.Since(start).Round(time.Second), c.fates)
}

func envNumber(t *testing.T, name string, value int) int {
	t.Helper()
	if text := os.Getenv(name); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	return value
}

// newCampaign makes volumes and a repository with a backup of each and one version. restic reads and writes 1.5 MB/s,
// so that a kill can happen while it does that.
func newCampaign(t *testing.T, seed uint64) *campaign {
	at := t.TempDir()
	real, err := exec.LookPath("restic")
	if err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\nexec %s --limit-upload=1500 --limit-download=1500 \"$@\"\n", real)
	if err := os.WriteFile(filepath.Join(at, "restic"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	c := &campaign{
		world: newWorld(t, host.Options{Pool: "xfs", Size: 3 << 30,
			Env: []string{"PATH=" + at + ":" + os.Getenv("PATH")}}),
		random: rand.New(rand.NewPCG(seed, 0)),
		took:   map[string]time.Duration{}, backups: map[string]string{}, newest: map[string]string{},
		fates: map[string]int{},
	}
	c.r = c.newBackupRepository(t)
	for _, name := range []string{"vol1", "vol2", "vol3", "out"} {
		c.ok(t, c.plug.Create(name, map[string]string{"profile": "plain"}))
		c.change(t, name)
	}
	for _, name := range []string{"vol1", "vol2", "vol3"} {
		c.backUp(t, name)
	}
	c.mustEnd(t, c.push(t), false)
	return c
}

// change writes new content into a volume.
func (c *campaign) change(t *testing.T, name string) {
	c.last++
	text := fmt.Sprint("content ", c.last)
	c.plug.Within(t, name, func(root string) { c.ok(t, fillTree(root, text)) })
	c.volumes[name] = text
}

const treeFiles = 40

// fillTree makes a folder contain a text and about 2.7 MiB that differ for each text.
func fillTree(root, text string) error {
	for i := range treeFiles {
		if err := os.WriteFile(filepath.Join(root, fmt.Sprint("file", i)), block(fmt.Sprint(text, i)), 0o600); err != nil {
			return err
		}
	}
	var large []byte
	for i := range 128 {
		large = append(large, block(fmt.Sprint(text, " large ", i))...)
	}
	return errors.Join(os.WriteFile(filepath.Join(root, "large"), large, 0o600), fill(root, text))
}

// compareTree returns what is wrong with a folder that fillTree should have filled.
func compareTree(root, text string) error {
	if err := compare(root, text); err != nil {
		return err
	}
	want := map[string]string{"text": text, "block": string(block(text))}
	for i := range treeFiles {
		want[fmt.Sprint("file", i)] = string(block(fmt.Sprint(text, i)))
	}
	for i := range 128 {
		want["large"] += string(block(fmt.Sprint(text, " large ", i)))
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		got, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return err
		}
		if string(got) != want[name] {
			return fmt.Errorf("%s has %d bytes, which are not those of %q", name, len(got), text)
		}
	}
	entries, err := os.ReadDir(root)
	if err == nil && len(entries) != len(want) {
		err = fmt.Errorf("%d files, want %d", len(entries), len(want))
	}
	return err
}

// kill runs an attack, kills Drover at a random moment of it, and checks what is there after the restart. It reports
// whether the kill interrupted the command.
func (c *campaign) kill(t *testing.T, a attack) (interrupted bool) {
	limit := cmp.Or(c.took[a.kind], 2*time.Second)
	result, took := make(chan host.Result, 1), time.Duration(0)
	go func() {
		start := time.Now()
		got := a.do()
		took = time.Since(start)
		result <- got
	}()
	after := time.Duration(c.random.Int64N(int64(limit)))
	dies := c.random.IntN(2) == 0
	time.Sleep(after)
	interrupted = len(result) == 0
	pids, command := c.resticRuns(t)
	c.h.Kill9(t)
	fate := a.kind + " without restic"
	if len(pids) > 0 {
		fate = fmt.Sprintf("%s in restic %s, which %s", a.kind, command, map[bool]string{true: "dies", false: "lives on"}[dies])
	}
	if dies {
		pids, _ = c.resticRuns(t) // one may have been started meanwhile
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				t.Fatal(err)
			}
		}
	}
	c.h.Up(t)
	c.visible(t, a.appears)
	got := <-result
	t.Logf("%s, after %s of %s: interrupted %t, exit %d %s", fate, after.Round(time.Millisecond),
		limit.Round(time.Millisecond), interrupted, got.Exit, got.FirstError())
	c.took[a.kind] = limit + limit/8 // it may take longer
	if !interrupted {
		c.took[a.kind] = took
	}
	c.settled(t)
	c.visible(t, a.appears)
	c.valid(t)
	c.mustEnd(t, a, true)
	if interrupted {
		c.fates[fate]++
	}
	return interrupted
}

// mustEnd runs an attack without a kill, and checks its result.
func (c *campaign) mustEnd(t *testing.T, a attack, killed bool) {
	t.Helper()
	if got := a.do(); got.Exit != 0 {
		t.Fatalf("%s: exit %d: %s%s", a.kind, got.Exit, got.Out, got.Err)
	}
	maps.Copy(c.volumes, a.appears)
	a.ends(t, killed)
	c.visible(t, nil)
	for _, left := range c.leftovers(t) {
		t.Errorf("left over after %s: %s", a.kind, left)
	}
	if left := names(t, filepath.Join(c.h.Root, "backups")); len(left) > 0 {
		t.Errorf("left below backups after %s: %v", a.kind, left)
	}
}

// resticRuns returns the processes of restic of the host, and the command of the first one.
func (c *campaign) resticRuns(t *testing.T) (pids []int, command string) {
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	c.ok(t, err)
	for _, path := range all {
		line, err := os.ReadFile(path)
		args := strings.Split(string(line), "\x00")
		ours := func(arg string) bool { return strings.HasPrefix(arg, "--cache-dir="+c.h.Root+"/") }
		if err != nil || !strings.HasSuffix(args[0], "restic") || !slices.ContainsFunc(args, ours) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		c.ok(t, err)
		pids = append(pids, pid)
		if i := slices.IndexFunc(args[1:], func(a string) bool { return a != "" && a[0] != '-' }); i >= 0 && command == "" {
			command = args[1+i]
		}
	}
	return pids, command
}

// visible fails unless all volumes have their whole content. Those of may can be absent.
func (c *campaign) visible(t *testing.T, may map[string]string) {
	t.Helper()
	names := c.h.Volumes(t)
	for name := range c.volumes {
		if !slices.Contains(names, name) {
			t.Errorf("volume %s is absent", name)
		}
	}
	for _, name := range names {
		text, known := c.volumes[name]
		if !known {
			text, known = may[name]
		}
		if !known {
			t.Errorf("volume %s is visible", name)
			continue
		}
		c.plug.Within(t, name, func(root string) {
			if err := compareTree(root, text); err != nil {
				t.Errorf("volume %s: %v", name, err)
			}
		})
	}
}

// valid waits until no restic runs, and fails unless the repository is valid.
func (c *campaign) valid(t *testing.T) {
	t.Helper()
	host.Await(t, "restic ends", func() error {
		if pids, command := c.resticRuns(t); len(pids) > 0 {
			return fmt.Errorf("restic %s runs: %v", command, pids)
		}
		return nil
	})
	c.r.restic(t, "check", "--read-data", "--no-lock")
}

// dropRestored removes the volumes that restores and pulls have made.
func (c *campaign) dropRestored(t *testing.T) {
	for name := range maps.Clone(c.volumes) {
		if strings.HasPrefix(name, "new") {
			c.drop(t, name)
		}
	}
}

// learn adds the backups that are not known yet, and compares their content. At most most may be new.
func (c *campaign) learn(t *testing.T, most int) {
	t.Helper()
	var list []struct {
		ID, Volume string
	}
	c.h.JSON(t, &list, "backup", "ls")
	count := 0
	for _, b := range list {
		if _, known := c.backups[b.ID]; known {
			continue
		}
		count++
		into := t.TempDir()
		c.r.restic(t, "restore", "--no-lock", "--target", into, b.ID)
		if err := compareTree(filepath.Join(into, "data"), c.volumes[b.Volume]); err != nil {
			t.Errorf("backup %s of volume %s: %v", b.ID, b.Volume, err)
		}
		c.ok(t, os.RemoveAll(into))
		c.backups[b.ID] = c.volumes[b.Volume]
		if b.Volume != "out" {
			c.newest[b.Volume] = c.volumes[b.Volume]
		}
	}
	if count < 1 || count > most {
		t.Errorf("%d new backups, want 1 to %d", count, most)
	}
}

// backUp backs up a volume without a kill.
func (c *campaign) backUp(t *testing.T, name string) {
	c.h.Must(t, "backup", "create", name, "--to", c.r.name)
	c.learn(t, 1)
}

// some returns one of the names.
func (c *campaign) some(names ...string) string { return names[c.random.IntN(len(names))] }

// someBackup returns the ID of a backup of a volume that is not pushed.
func (c *campaign) someBackup() string {
	return c.some(slices.Sorted(maps.Keys(c.backups))...)
}

func (c *campaign) backup(t *testing.T) attack {
	name := c.some("vol1", "vol2", "vol3")
	c.change(t, name)
	return attack{
		kind: "backup",
		do:   func() host.Result { return c.h.Exec(t, "backup", "create", name, "--to", c.r.name) },
		ends: func(t *testing.T, killed bool) { c.learn(t, map[bool]int{false: 1, true: 2}[killed]) },
	}
}

// restored runs a command that makes a volume, unless an earlier run has made it.
func (c *campaign) restored(t *testing.T, name string, args ...string) host.Result {
	if got := c.h.Exec(t, "volume", "inspect", name); got.Exit == 0 {
		return got
	}
	return c.h.Exec(t, args...)
}

func (c *campaign) restore(t *testing.T) attack {
	c.dropRestored(t)
	id, name := c.someBackup(), fmt.Sprint("new", c.random.IntN(1000))
	return attack{
		kind:    "restore",
		do:      func() host.Result { return c.restored(t, name, "backup", "restore", id, name) },
		appears: map[string]string{name: c.backups[id]},
		ends:    func(*testing.T, bool) {},
	}
}

func (c *campaign) verify(t *testing.T) attack {
	id := c.someBackup()
	return attack{
		kind: "verify",
		do:   func() host.Result { return c.h.Exec(t, "backup", "verify", id) },
		ends: func(*testing.T, bool) {},
	}
}

// prune removes about half of the backups whose content is not needed any more, and their data. The attack begins with
// the removal of the last of them.
func (c *campaign) prune(t *testing.T) attack {
	c.change(t, "vol1")
	c.backUp(t, "vol1")
	var ids []string
	needed := append(slices.Collect(maps.Values(c.newest)), c.pushed)
	for _, id := range slices.Sorted(maps.Keys(c.backups)) {
		if !slices.Contains(needed, c.backups[id]) && (len(ids) == 0 || c.random.IntN(2) == 0) {
			ids = append(ids, id)
		}
	}
	for _, id := range ids[1:] {
		c.h.Must(t, "backup", "rm", id, "--yes")
	}
	return attack{
		kind: "prune",
		do: func() host.Result {
			if list := c.h.Exec(t, "backup", "ls", "-q"); list.Exit != 0 || strings.Contains(list.Out, ids[0]) {
				if got := c.h.Exec(t, "backup", "rm", ids[0], "--yes"); got.Exit != 0 {
					return got
				}
			}
			got := c.h.Exec(t, "backup", "prune", "--repository", c.r.name)
			if strings.Contains(got.Err, "drover repository check removes the lock") { // of the killed restic
				if got = c.h.Exec(t, "repository", "check", c.r.name); got.Exit == 0 {
					got = c.h.Exec(t, "backup", "prune", "--repository", c.r.name)
				}
			}
			return got
		},
		ends: func(t *testing.T, _ bool) {
			list := c.h.Must(t, "backup", "ls", "-q")
			for _, id := range ids {
				if strings.Contains(list, id) {
					t.Errorf("backup %s was not removed", id)
				}
				delete(c.backups, id)
			}
			for id := range c.backups {
				if !strings.Contains(list, id) {
					t.Errorf("backup %s is lost", id)
				}
			}
		},
	}
}

func (c *campaign) push(t *testing.T) attack {
	c.change(t, "out")
	return attack{
		kind: "push",
		do:   func() host.Result { return c.h.Exec(t, "push", "out", c.r.name+"/prod") },
		ends: func(t *testing.T, killed bool) {
			c.learn(t, map[bool]int{false: 1, true: 2}[killed])
			var list []json.RawMessage
			c.h.JSON(t, &list, "repository", "versions", c.r.name+"/prod", "--filter", "state=newest")
			if len(list) != 1 {
				t.Errorf("%d newest versions: %s", len(list), list)
			}
			c.pushed = c.volumes["out"]
		},
	}
}

func (c *campaign) pull(t *testing.T) attack {
	c.dropRestored(t)
	name := fmt.Sprint("new", c.random.IntN(1000))
	return attack{
		kind: "pull",
		do: func() host.Result {
			return c.restored(t, name, "pull", c.r.name+"/prod", "--as", name)
		},
		appears: map[string]string{name: c.pushed},
		ends:    func(*testing.T, bool) {},
	}
}

// recover loses two volumes, and recovers them with the content of their newest backups.
func (c *campaign) recover(t *testing.T) attack {
	lost := []string{"vol1", "vol2", "vol3"}
	i := c.random.IntN(3)
	lost = slices.Delete(lost, i, i+1)
	appears := map[string]string{}
	for _, name := range lost {
		c.drop(t, name)
		appears[name] = c.newest[name]
	}
	return attack{
		kind: "recover",
		do: func() host.Result {
			return c.h.Exec(t, append([]string{"recover", "--from", c.r.name, "--take-over"}, lost...)...)
		},
		appears: appears,
		ends:    func(*testing.T, bool) {},
	}
}
