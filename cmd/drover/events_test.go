package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/control/api"
)

// TestEventsOfAVolume: the events of a volume are found by its name, also those from before a rename, and those of a
// volume that does not exist any more. The filter selects by the name that the volume had.
func TestEventsOfAVolume(t *testing.T) {
	f := theWorld()
	event := func(id uint64, name string, of api.Volume) api.Event {
		return api.Event{ID: id, Time: now.Add(time.Duration(id) * time.Second), Type: "volume.update", Volume: name, Dataset: of.ID}
	}
	gone := f.trash[0]
	f.events = []api.Event{event(1, "before", f.volumes[0]), event(2, "db", f.volumes[0]), event(3, "db-test", f.volumes[1]), event(4, "old", gone)}
	for _, tc := range []struct{ args, want []string }{
		{nil, []string{"before", "db", "db-test", "old"}},
		{[]string{"db"}, []string{"before", "db"}},
		{[]string{f.volumes[0].ID.String()}, []string{"before", "db"}},
		{[]string{"old"}, []string{"old"}},
		{[]string{gone.ID.String()[:8]}, []string{"old"}},
		{[]string{"--filter", "volume=db"}, []string{"db"}},
	} {
		c := newConsole(f)
		if code := c.run(t, append([]string{"events"}, tc.args...)...); code != 0 {
			t.Errorf("%v: %s", tc.args, c.err.String())
		}
		var got []string
		for _, line := range strings.Split(strings.TrimSpace(c.out.String()), "\n")[1:] {
			got = append(got, strings.Fields(line)[3])
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%v: events of %v, want %v", tc.args, got, tc.want)
		}
	}
	c := newConsole(f)
	if code := c.run(t, "events", "never"); code == 0 || !strings.Contains(c.err.String(), `no such volume, and no event about it: "never"`) {
		t.Errorf("exit code %d: %s", code, c.err.String())
	}
}
