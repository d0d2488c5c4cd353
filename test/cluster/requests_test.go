package cluster_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/cluster"
	"github.com/droverhq/drover/test/host"
)

// testRequests: one ID finds the lines of one request in the logs of all hosts that took part in it: of the host whose
// engine mounts a volume, of control, and of the home that sends the data. The same is true for a move that control
// records and an agent carries out later. A mount that fails has one line at level info or above.
func testRequests(t *testing.T, w *world) {
	const volume = "traced@gold"
	a, b := w.Hosts[0], w.Hosts[1]
	once(t, a, volume, "echo written > /data/file")
	plug := b.Plug(t).As("deploy-17")
	if _, err := plug.Mount(volume, "traced"); err != nil {
		t.Fatal(err)
	}
	wantTrace(t, w, "deploy-17", map[*host.Host][]string{
		b.Host: {"operation is done", "mounted"},
		a.Host: {"relinquished", "sent data to another node"},
		nil:    {"what=submit-operation", "what=commit"},
	})
	// The volume is in use on b, so a mount on a is refused. The failure of the move is one warning, on a.
	if _, err := a.Plug(t).As("deploy-18").Mount(volume, "refused"); err == nil {
		t.Fatal("a volume in use moved")
	}
	// The engine can have its answer before the line is in the log.
	wantTrace(t, w, "deploy-18", map[*host.Host][]string{a.Host: {"operation failed"}})
	var loud []string
	for _, line := range traced(w, "deploy-18") {
		if strings.Contains(line, "refused") || strings.Contains(line, "failed") {
			loud = append(loud, line)
		}
	}
	if len(loud) != 1 || !strings.Contains(loud[0], "operation failed") {
		t.Errorf("a failed mount has %d lines:\n%s", len(loud), strings.Join(loud, ""))
	}
	if err := plug.Unmount(volume, "traced"); err != nil {
		t.Fatal(err)
	}
	w.Controls[0].Must(t, "volume", "move", "traced", a.Name)
	id := regexp.MustCompile(`request=([0-9a-f]{12}) .*what=submit-operation .*who="local`).
		FindAllStringSubmatch(w.Controls[0].Log(), -1)
	if len(id) == 0 {
		t.Fatalf("control has no line about a move: %s", w.Controls[0].LogTail(20))
	}
	wantTrace(t, w, id[len(id)-1][1], map[*host.Host][]string{
		a.Host: {"operation is done"},
		b.Host: {"relinquished", "sent data to another node"},
		nil:    {"what=submit-operation", "what=commit"},
	})
	a.Must(t, "snapshot", "create", "traced", "named")
	wantCallers(t, w, "traced", "volume.move engine on "+b.Name, "volume.move root (uid 0)",
		"snapshot.create root (uid 0) on "+a.Name)
	var ops []dataset.Operation
	if err := json.Unmarshal([]byte(a.Must(t, "operation", "ls", "-o", "json")), &ops); err != nil {
		t.Fatal(err)
	}
	var by []string
	for _, op := range ops {
		if op.Volume == "traced" && op.Kind == dataset.OpMove && op.State == dataset.OpDone {
			by = append(by, op.By)
		}
	}
	if slices.Sort(by); !slices.Equal(by, []string{"engine on " + b.Name, "root (uid 0)"}) {
		t.Errorf("the moves were requested by %q", by)
	}
}

// wantCallers waits until the events of a volume have the types and callers, on each control replica.
func wantCallers(t *testing.T, w *world, volume string, want ...string) {
	t.Helper()
	for i, c := range w.Controls {
		host.Await(t, fmt.Sprintf("callers of the events on control %d", i), func() error {
			var got []string
			dec := json.NewDecoder(strings.NewReader(c.Must(t, "events", volume, "-o", "json")))
			for dec.More() {
				var ev api.Event
				if err := dec.Decode(&ev); err != nil {
					return err
				}
				got = append(got, string(ev.Type)+" "+ev.By)
			}
			for _, is := range want {
				if !slices.Contains(got, is) {
					return fmt.Errorf("no event %q: %q", is, got)
				}
			}
			return nil
		})
	}
}

// traced returns the lines of all logs with the ID of a request.
func traced(w *world, id string) (lines []string) {
	add := func(h *host.Host) {
		for line := range strings.Lines(h.Log()) {
			if strings.Contains(line, "request="+id) {
				lines = append(lines, line)
			}
		}
	}
	for _, h := range w.Hosts {
		add(h.Host)
	}
	for _, c := range w.Controls {
		add(c.Host)
	}
	return lines
}

// wantTrace waits until the logs have lines with the ID of a request and the texts; nil stands for all control replicas.
func wantTrace(t *testing.T, w *world, id string, want map[*host.Host][]string) {
	t.Helper()
	has := func(log, text string) bool {
		for line := range strings.Lines(log) {
			if strings.Contains(line, text) && strings.Contains(line, "request="+id) {
				return true
			}
		}
		return false
	}
	host.Await(t, "lines of request "+id, func() error {
		for h, texts := range want {
			log := controlLogs(w.Controls)
			if h != nil {
				log = h.Log()
			}
			for _, text := range texts {
				if !has(log, text) {
					return fmt.Errorf("no line has %q and request=%s in:\n%s", text, id, strings.Join(traced(w, id), ""))
				}
			}
		}
		return nil
	})
}

func controlLogs(all []*cluster.Control) (log string) {
	for _, c := range all {
		log += c.Log()
	}
	return log
}
