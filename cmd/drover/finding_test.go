package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// says runs a command and fails unless its output and exit code are as wanted.
func says(t *testing.T, f *fake, words string, code int, want string) string {
	t.Helper()
	c := newConsole(f)
	got := c.run(t, strings.Fields(words)...)
	if out := c.out.String() + c.err.String(); got != code || !strings.Contains(out, want) {
		t.Errorf("drover %s: exit %d, %s, want %d and %q", words, got, out, code, want)
	}
	return c.out.String()
}

// TestResizeBy: +SIZE adds to the present size.
func TestResizeBy(t *testing.T) {
	for words, size := range map[string]string{
		"volume resize db +1GiB": "21GiB", "volume resize db +64M": "20544MiB",
	} {
		f := theWorld()
		works(f, ended(dataset.OpDone, nil))
		says(t, f, words, 0, "volume db has")
		if asked := strings.Join(f.asked, "\n"); !strings.Contains(asked, `"size":"`+size+`"`) {
			t.Errorf("drover %s: %s, want %s", words, asked, size)
		}
	}
	f := theWorld()
	says(t, f, "volume resize db-test +1GiB", 2, "volume db-test has no size limit")
	if len(f.asked) > 0 {
		t.Errorf("%v", f.asked)
	}
}

// TestInspectSeveral: inspect shows all the items that it is given, as JSON in a list.
func TestInspectSeveral(t *testing.T) {
	says(t, theWorld(), "volume inspect db db-test", 0, "db-test@snapshot-5100")
	says(t, theWorld(), "pool inspect default plain", 0, "/srv/plain")
	says(t, theWorld(), "volume inspect db nosuch", 1, `no such volume: "nosuch"`)
	var list []api.Volume
	out := says(t, theWorld(), "volume inspect db db-test -o json", 0, "")
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != 2 {
		t.Errorf("%v: %s", err, out)
	}
}

// TestOperationShowsItsRequest: inspect shows the ID with which all logs can be searched.
func TestOperationShowsItsRequest(t *testing.T) {
	f := theWorld()
	f.operations[0].RequestID = "4f1d0a7c2b9e"
	works(f, answer{op: f.operations[0]})
	f.progress = []answer{{op: f.operations[0]}}
	says(t, f, "operation inspect "+idOp.String(), 0, "4f1d0a7c2b9e")
}

// TestDeletedSnapshot: the error about a snapshot says that it was deleted, if a recent operation did that.
func TestDeletedSnapshot(t *testing.T) {
	f := theWorld()
	s := snapshot(9, "first", "", time.Hour)
	f.operations = append(f.operations, dataset.Operation{
		ID: idBare, Kind: dataset.OpSnapshotDelete, State: dataset.OpDone, Volume: "db", Snapshot: &s, Ended: now.Add(-time.Minute),
	})
	want := "snapshot " + s.ID.String() + " of volume db was deleted about a minute ago, by operation " + idBare.String()
	for _, words := range []string{"snapshot inspect db first", "snapshot show db@first", "snapshot inspect --volume db first", "snapshot inspect " + s.ID.String()[:8]} {
		says(t, f, words, 1, want)
	}
	c := newConsole(f)
	if c.run(t, "snapshot", "inspect", "db", "other"); strings.Contains(c.err.String(), "was deleted") {
		t.Error(c.err.String())
	}
	f.fail = map[string]error{"Submit": dataset.Errorf(dataset.ErrInvalid, "volume db has profile gold, not first")}
	says(t, f, "volume rm db@first", 2, "; to delete only a snapshot of that name: drover snapshot rm --dry-run db first")
}
