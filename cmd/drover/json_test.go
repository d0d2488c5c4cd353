package main

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
)

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
			if err := cli.JSON(&want, tc.want); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want.String(), c.out.String()); d != "" {
				t.Errorf("[%s] %v:\n%s", tc.scenario, args, d)
			}
		}
	}
}

// TestJSONOfDestroyedObject: doctor --gc -o json prints the destroyed object as JSON.
func TestJSONOfDestroyedObject(t *testing.T) {
	c := newConsole(theWorld())
	code := c.run(t, "doctor", "--gc", idGone.String(), "--yes", "-o", "json")
	var got api.Collected
	if err := json.Unmarshal(c.out.Bytes(), &got); err != nil || code != 0 || got.Dataset != idGone {
		t.Errorf("exit %d, %v, %q", code, err, c.out.String())
	}
}
