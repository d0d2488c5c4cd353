package product

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
)

// TestFullness: a volume that fills up is as full in drover volume ls as in df of its container. drover status and an
// event say so, and are quiet again after the command that drover status shows.
func TestFullness(t *testing.T) {
	const sized = `default: small
profiles:
  small: {size: 512MiB, filesystem: {type: xfs}}
  early: {size: 512MiB, filesystem: {type: xfs}, warn_at: 30%}
`
	w := begin(t, host.Options{Profiles: sized}, engine.Options{})
	w.run(t, "app", "logs@small")
	f := fullness{w, t}
	f.agrees("empty", dataset.NotFull)
	f.quiet()

	w.docker(t, "exec", "app", "dd", "if=/dev/zero", "of=/data/some", "bs=1M", "count=200", "conv=fsync")
	f.agrees("some", dataset.NotFull)
	w.drover(t, "volume", "set-profile", "logs", "early")
	f.agrees("some, with another threshold", dataset.NearlyFull)
	w.drover(t, "volume", "set-profile", "logs", "small")
	f.agrees("some, with the usual threshold", dataset.NotFull)

	w.docker(t, "exec", "app", "dd", "if=/dev/zero", "of=/data/more", "bs=1M", "count=250", "conv=fsync")
	f.agrees("nearly full", dataset.NearlyFull)
	grow := f.reported("NEARLY FULL: ")

	w.docker(t, "exec", "app", "sh", "-c", "dd if=/dev/zero of=/data/rest bs=1M conv=fsync; true")
	f.agrees("full", dataset.Full)
	if got := f.reported("FULL: "); got != grow {
		t.Errorf("when it is full, the command is %q", got)
	}
	if out := w.drover(t, "volume", "inspect", "logs"); !strings.Contains(out, grow) {
		t.Errorf("inspect does not show %q:\n%s", grow, out)
	}
	w.docker(t, "rm", "--force", "app")
	stillFull := func(what string) {
		t.Helper()
		host.Await(t, "it is full "+what, func() error {
			v := f.volume()
			if v.Status == nil || v.Status.Mounted || v.Status.Fullness != dataset.Full || v.Status.Usage.Percent() != 100 {
				return fmt.Errorf("%+v", v.Status)
			}
			return nil
		})
	}
	stillFull("without a container too")
	f.events("nearly_full", "not_full", "nearly_full", "full")
	w.drover(t, "snapshot", "create", "logs")
	w.drover(t, "volume", "create", "unused@small")
	w.h.Restart(t)
	stillFull("after a restart of drover")
	if out := w.drover(t, "volume", "ls", "--filter", "name=unused"); strings.Contains(out, "0B") {
		t.Errorf("a volume that was never mounted is shown as empty:\n%s", out)
	}
	w.run(t, "app", "logs")

	w.drover(t, strings.Fields(grow)[1:]...)
	f.agrees("enlarged", dataset.NotFull)
	f.quiet()
	f.events("full", "not_full") // a restart ends the list of events, and reports what is full anew
}

// fullness checks how full the volume logs is, which the container app has at /data.
type fullness struct {
	*world
	t *testing.T
}

func (f fullness) volume() (v api.Volume) {
	f.t.Helper()
	if err := json.Unmarshal([]byte(f.drover(f.t, "volume", "inspect", "logs", "-o", "json")), &v); err != nil {
		f.t.Fatal(err)
	}
	return v
}

// agrees waits until Drover shows the figures of df in the container, and a state.
func (f fullness) agrees(what string, state dataset.Fullness) {
	f.t.Helper()
	host.Await(f.t, what+": df and drover volume ls agree", func() error {
		df := strings.Fields(f.docker(f.t, "exec", "app", "df", "-B1",
			"--output=used,avail,pcent,itotal,iused,ipcent", "/data"))
		df = df[len(df)-6:]
		st := f.volume().Status
		if st == nil || st.Usage == nil {
			return errors.New("not known")
		}
		u := st.Usage
		got := strings.Fields(fmt.Sprintf("%d %d %d%% %d %d %d%%", u.Used, u.Available, u.Percent(), u.Inodes,
			u.InodesUsed, u.InodePercent()))
		if fmt.Sprint(got) != fmt.Sprint(df) || st.Fullness != state {
			return fmt.Errorf("drover has %v and state %q, df %v, and the state should be %q", got, st.Fullness, df, state)
		}
		if out := f.drover(f.t, "volume", "ls"); !strings.Contains(out, " "+df[2]+" ") {
			return fmt.Errorf("drover volume ls does not show %s:\n%s", df[2], out)
		}
		return nil
	})
}

// reported waits until drover status reports a state, and returns the command that it shows.
func (f fullness) reported(state string) (grow string) {
	f.t.Helper()
	host.Await(f.t, "drover status says "+state, func() error {
		r := f.h.Exec(f.t, "status", "-o", "json")
		var report struct{ Findings []api.Finding }
		if err := json.Unmarshal([]byte(r.Out), &report); err != nil {
			return err
		}
		for _, is := range report.Findings {
			if is.Subject == "volume logs" && strings.HasPrefix(is.Text, state) && r.Exit == 1 {
				grow = is.Fix
				return nil
			}
		}
		return fmt.Errorf("exit %d: %s", r.Exit, r.Out)
	})
	if !strings.HasPrefix(grow, "drover volume resize logs ") {
		f.t.Fatalf("the command is %q", grow)
	}
	return grow
}

// events waits until the events about the fullness of volumes are want.
func (f fullness) events(want ...string) {
	f.t.Helper()
	host.Await(f.t, "events", func() error {
		var got []string
		for _, line := range strings.Split(f.drover(f.t, "events"), "\n") {
			for _, word := range strings.Fields(line) {
				if typ, is := strings.CutPrefix(word, "volume."); is && strings.HasSuffix(typ, "full") {
					got = append(got, typ)
				}
			}
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("%v, want %v", got, want)
		}
		return nil
	})
}

// quiet waits until neither drover status nor drover doctor says anything about the volume.
func (f fullness) quiet() {
	f.t.Helper()
	host.Await(f.t, "nothing is reported", func() error {
		for _, command := range []string{"status", "doctor"} {
			if r := f.h.Exec(f.t, command); strings.Contains(r.Out, "volume logs") {
				return fmt.Errorf("%s: %s", command, r.Out)
			}
		}
		return nil
	})
}
