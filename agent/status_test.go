package agent

import (
	"strings"
	"testing"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
)

// When a start has ended control knows how each volume is: none is unknown.
func TestStatusAtOnceAfterAStart(t *testing.T) {
	r := newRig(t)
	d := r.volume("db")
	r.volume("idle")
	r.mount(d, "id")
	cfg := r.config
	r.close()
	// What control heard is gone with its process.
	r.ends[len(r.ends)-1]()
	r.ends = r.ends[:len(r.ends)-1]
	r.link = r.control("store.db")
	cfg.Control = r.link
	r.start(cfg)
	list, err := r.Control.Volumes(t.Context(), api.Page{})
	if err != nil || len(list.Items) != 2 {
		t.Fatal(list, err)
	}
	for _, v := range list.Items {
		if v.Status == nil || v.Status.Mounted != (v.Volume == "db") {
			t.Errorf("volume %s: %+v", v.Volume, v.Status)
		}
	}
	if err := r.Unmount(t.Context(), "db", "id"); err != nil {
		t.Error(err)
	}
}

// That a volume which nobody uses cannot be opened is told until it can.
func TestStatusOnceThePoolIsBack(t *testing.T) {
	f := &fussy{}
	r := newRig(t, func(c *Config) { c.Backends = backends.NewRegistry(f) })
	r.volume("db")
	told := func(what string) {
		t.Helper()
		await(t, func() bool {
			r.clock.Advance(r.Limits.Heartbeat)
			v, err := r.Control.Volume(t.Context(), "db")
			return err == nil && v.Status != nil && (v.Status.Problem == "") == (what == "") && strings.Contains(v.Status.Problem, what)
		})
	}
	f.offline.Store(true)
	r.restart()
	told("its disk is gone")
	f.offline.Store(false)
	told("")
}
