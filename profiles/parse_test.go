package profiles_test

import (
	"os"
	"testing"

	"github.com/droverhq/drover/profiles"
)

func TestShipped(t *testing.T) {
	src, err := os.ReadFile("../profiles.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s, err := profiles.Parse("profiles.yaml", src)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Default(); got != "bronze" {
		t.Errorf("default %q", got)
	}
	for _, p := range s.All() {
		t.Logf("%+v", p)
	}
}

func TestMistakes(t *testing.T) {
	for _, c := range []struct{ src, want string }{
		{"default: a\nprofiles:\n  a:\n    szie: 5GiB\n", `p.yaml:4:5: profiles.a.szie: unknown key "szie", did you mean size? (have: backend, description, filesystem, on_delete, owner, pool, quiesce, size, snapshots) in "szie: 5GiB"`},
		{"default: a\nprofiles:\n  a: {size: 5}\n", `p.yaml:3:13: profiles.a.size: bad size "5": a bare number can be read two ways (say 5GiB for gibibytes or 5B for bytes) in "a: {size: 5}"`},
		{"default: glod\nprofiles: {gold: {}}\n", `p.yaml:1:10: default: unknown profile "glod" (have: gold) in "default: glod"`},
		{"default: a\nprofiles:\n  a: {qos: {read_iops: 5}}\n", `p.yaml:3:7: profiles.a.qos: is not built yet in this version: leave it out in "a: {qos: {read_iops: 5}}"`},
		{"default: a\nprofiles: {a: {}, a: {}}\n", ``},
		{"default: [\n", ``},
	} {
		_, err := profiles.Parse("p.yaml", []byte(c.src))
		if err == nil {
			t.Errorf("%q: no error", c.src)
			continue
		}
		if c.want != "" && err.Error() != c.want {
			t.Errorf("%q:\n got %s\nwant %s", c.src, err, c.want)
		}
		t.Log(err)
	}
}
