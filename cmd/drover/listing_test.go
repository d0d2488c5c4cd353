package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// TestLists runs each ls command with each of its columns as a key and as a name in templates, and in each format.
func TestLists(t *testing.T) {
	noLabels := []string{"backup ls", "profile ls", "guard ls", "repository ls", "ca ls"} // their items have none
	lists := 0
	for _, cmd := range leaves(newRootCmd(newConsole(theWorld()).App)) {
		if cmd.Name() != "ls" {
			continue
		}
		lists++
		path := strings.TrimPrefix(cmd.CommandPath(), "drover ")
		runs := func(code int, flags ...string) (out, errors string) {
			t.Helper()
			c := newConsole(theWorld())
			c.fake.volumes[0] = movingVolume()
			c.fake.volumes[0].CopyDetails = append(c.fake.volumes[0].CopyDetails,
				copiesOn(dataset.Copy{Dataset: idDB, Kind: dataset.CopyReplica, Snapshot: snapID(1), Taken: now, Problem: "slow"}, "host-b")...)
			if got := c.run(t, append(strings.Fields(path), flags...)...); got != code {
				t.Errorf("%s %v: exit %d, %s", path, flags, got, c.err.String())
			}
			return c.out.String(), c.err.String()
		}
		all, _ := runs(0, "-q")
		if all == "" {
			t.Errorf("%s is empty", path)
		}
		wide, _ := runs(0, "-o", "wide")
		header, _, _ := strings.Cut(wide, "\n")
		var names []string
		for column := range strings.SplitSeq(header, "   ") {
			column = strings.TrimSpace(column)
			if column == "" {
				continue
			}
			key := strings.ReplaceAll(strings.ToLower(column), " ", "_")
			if got, _ := runs(0, "-q", "--filter", key+"=*", "--sort", key+",-"+key); len(got) != len(all) {
				t.Errorf("%s --sort %s: %q", path, key, got)
			}
			if got, _ := runs(0, "-q", "--filter", key+"=no such text"); got != "" {
				t.Errorf("%s --filter %s=no such text: %q", path, key, got)
			}
			names = append(names, key)
		}
		for _, flags := range [][]string{{"-o", "json"}, {"-o", "yaml"}, {"--format", "x"}, {"--format", "json"}} {
			if out, _ := runs(0, flags...); out == "" {
				t.Errorf("%s %v prints nothing", path, flags)
			}
		}
		_, errors := runs(2, "--filter", "label=", "--format", "{{.Nothing}}")
		hasLabels := !strings.Contains(errors, `unknown key "label"`)
		if _, errors = runs(2, "--format", "{{.Nothing}}"); strings.Count(errors, ", ") != len(names)-1 || hasLabels == slices.Contains(noLabels, path) {
			t.Errorf("%s: labels %t, %d columns: %s", path, hasLabels, len(names), errors)
		}
	}
	if lists < 9 {
		t.Errorf("found only %d lists", lists)
	}
}

// TestListsNameALostStore: each list of what the store has says that it can lack items, and names the next command.
func TestListsNameALostStore(t *testing.T) {
	local := []string{"drover profile ls", "drover guard ls"} // not from the store
	for _, cmd := range leaves(newRootCmd(newConsole(theWorld()).App)) {
		if cmd.Name() != "ls" {
			continue
		}
		c := newConsole(&fake{health: api.ClusterHealth{Store: api.StoreHealth{Halted: "store inconsistent; changes suspended: it was lost (drover store recover --from-pools)"}}})
		if code := c.run(t, strings.Fields(strings.TrimPrefix(cmd.CommandPath(), "drover "))...); code != 0 {
			t.Errorf("%s: %d %s", cmd.CommandPath(), code, c.err.String())
		}
		want := "drover: this list may lack items: store inconsistent; changes suspended: it was lost (drover store recover --from-pools)\n"
		if slices.Contains(local, cmd.CommandPath()) {
			want = ""
		}
		if got := c.err.String(); got != want {
			t.Errorf("%s: %q, want %q", cmd.CommandPath(), got, want)
		}
	}
}

// TestDropAliasWaitsForReport: dropping an alias is tried again while the home reports a use of it, but not for ever,
// because a container that has just ended counts as a use until its unmount is reported.
func TestDropAliasWaitsForReport(t *testing.T) {
	for refusals, wantTries := range map[int]int{1: 2, 99: 4} {
		w, tries := theWorld(), 0
		w.fail = map[string]error{"Submit": dataset.Errorf(dataset.ErrInUse, "a running container uses it")}
		w.hook = func(method string) {
			if method == "Submit" {
				if tries++; tries > refusals {
					delete(w.fail, "Submit")
				}
			}
		}
		c := newConsole(w)
		code := c.run(t, "volume", "rename", "--drop-alias", "old", "db")
		if tries != wantTries || (code == 0) != (refusals < wantTries) {
			t.Errorf("%d refusals: exit %d after %d tries, want %d tries; %s", refusals, code, tries, wantTries, c.err.String())
		}
	}
}

// TestJSONIsTheAPIsObjects checks that -o json prints the complete objects of the server.
func TestJSONIsTheAPIsObjects(t *testing.T) {
	w := theWorld()
	db := dbVolume()
	done, pending := ended("done", nil).op, running("", 0, 0).op
	pending.State = "pending"
	v := done.DatasetRecord
	pending.DatasetRecord = v
	tests := []struct {
		scenario string
		args     []string
		want     any
	}{
		{"", []string{"volume", "ls"}, w.volumes},
		{"paged", []string{"volume", "ls"}, w.volumes},
		{"", []string{"volume", "inspect", "db"}, db},
		{"works", []string{"volume", "create", "db"}, api.Outcome{Volume: &db, Operation: &done}},
		{"works", []string{"volume", "create", "db", "--detach"}, api.Outcome{Operation: &pending}},
		{"nothing-to-do", []string{"volume", "create", "db"}, api.Outcome{Volume: &db}},
		{"nothing-to-do", []string{"volume", "create", "db", "--detach"}, api.Outcome{Volume: &db}},
		{"works", []string{"volume", "rm", "db"}, api.Outcome{Operation: &done}},
		{"deletes", []string{"volume", "rm", "db", "db"}, []api.Outcome{{Operation: &done}, {Operation: &done}}},
		{"at-once", []string{"volume", "protect", "db"}, api.Outcome{Volume: &db, Operation: &done}},
		{"tar", []string{"volume", "import", "db", "--from", "-"}, api.Outcome{Volume: &db}},
		{"", []string{"snapshot", "inspect", "51"}, w.snapshots[0]},
		{"", []string{"snapshot", "ls", "db"}, w.snapshots},
		{"empty", []string{"snapshot", "ls"}, []string{}},
		{"", []string{"trash", "ls"}, w.trash},
		{"at-once", []string{"trash", "purge", "old", "--yes"}, api.Outcome{Volume: &db, Operation: &done}},
		{"at-once", []string{"trash", "purge", "--all", "--yes"}, []api.Outcome{{Volume: &db, Operation: &done}, {Volume: &db, Operation: &done}}},
		{"empty", []string{"trash", "purge", "--all", "--yes"}, []string{}},
		{"", []string{"profile", "ls"}, api.ListedProfiles(w.profiles, "gold")},
		{"", []string{"profile", "show", "gold"}, gold()},
		{"", []string{"pool", "ls"}, w.pools},
		{"", []string{"pool", "inspect", "default"}, w.pools[0]},
		{"", []string{"pool", "create", "default", "--backend", "loop", "--path", "/x"}, w.pool},
		{"", []string{"pool", "rm", "default", "--yes"}, api.RemovedPool{Pool: w.pool, Notes: []string{"profile gold requires pool fast: its volumes need another pool of that name"}}},
		{"empty", []string{"pool", "adopt", "/x"}, api.Adopted{Rebuilt: []api.Rebuilt{}}},
		{"", []string{"repository", "ls"}, w.repositories},
		{"", []string{"repository", "rm", "offsite", "--yes"}, w.repositories[0]},
		{"", []string{"node", "ls"}, w.nodes},
		{"", []string{"node", "inspect", "host-a"}, w.nodes[0]},
		{"", []string{"store", "recover", "--from-pools"}, w.rebuilt},
		{"", []string{"operation", "ls"}, w.operations},
		{"works", []string{"operation", "inspect", "--wait", "0b00"}, done},
		{"", []string{"version"}, versions{Client: "1.2.3", Server: &w.version}},
	}
	for _, tc := range tests {
		for _, args := range [][]string{append([]string{"-o", "json"}, tc.args...), append(tc.args, "--output=json")} {
			c := newConsole(theWorld())
			scenarios[tc.scenario](c)
			if code := c.run(t, args...); code != 0 {
				t.Errorf("%v: exit %d, %s", args, code, c.err.String())
				continue
			}
			var want bytes.Buffer
			require.NoError(t, cli.JSON(&want, tc.want))
			if d := cmp.Diff(want.String(), c.out.String()); d != "" {
				t.Errorf("[%s] %v:\n%s", tc.scenario, args, d)
			}
		}
	}
}
