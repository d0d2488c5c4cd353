package config_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/config"
	"github.com/droverhq/drover/internal/strictyaml"
	"github.com/droverhq/drover/test/golden"
)

func TestParse(t *testing.T) {
	for name, c := range map[string]struct {
		src  string
		want config.Config
	}{
		"empty":     {"", config.Config{}},
		"comments":  {"# pools:\n", config.Config{}},
		"published": {"publish_facts: [swarm]\n", config.Config{Publish: []string{config.PublishSwarm}}},
		"slow":      {"transfers: {rate: 10MiB}\n", config.Config{TransferRate: 10 << 20}},
		"fences": {
			"fence_programs: [/sbin/off, /sbin/away]\n",
			config.Config{FencePrograms: []string{"/sbin/off", "/sbin/away"}},
		},
		"no fences": {"fence_programs: []\n", config.Config{FencePrograms: []string{}}},
		"groups": {
			"cgroup_parents: [docker, /a.slice/b]\n", config.Config{CgroupParents: []string{"/docker", "/a.slice/b"}},
		},
		"lists":      {"list: cluster\n", config.Config{ListAll: true}},
		"no series":  {"metrics: {volumes: false}\n", config.Config{HideVolumeMetrics: true}},
		"all series": {"metrics: {volumes: true}\n", config.Config{}},
		"lists own":  {"list: node\n", config.Config{}},
		"no pools":   {"pools: []\nlabels: {}\n", config.Config{}},
		"all": {"pools:\n  - {name: fast, backend: loop, path: /mnt/xfs/pool, overcommit: 1.5}\n  - name: slow\n    backend: dir\n    path: /srv/a b\n  - {name: img, backend: loop, path: /srv/pool.img, image: 50GiB}\n  - {name: disk, backend: btrfs, devices: [/dev/sdb, /dev/sdc], trim: 24h}\nlabels:\n  rack: r1\n  io.drover/zone: 5\n  empty: \"\"\n",
			config.Config{
				Pools: []config.Pool{
					{Name: "fast", Backend: "loop", Path: "/mnt/xfs/pool", Overcommit: 1.5},
					{Name: "slow", Backend: "dir", Path: "/srv/a b"},
					{Name: "img", Backend: "loop", Path: "/srv/pool.img", Image: 50 << 30},
					{Name: "disk", Backend: "btrfs", Devices: []string{"/dev/sdb", "/dev/sdc"}, Trim: 24 * time.Hour},
				},
				Labels: map[string]string{"rack": "r1", "io.drover/zone": "5", "empty": ""},
			}},
		"consul": {"store: {consul: {addresses: [\"https://a:8501\", 'https://b:8501']}}\n", config.Config{
			Consul: &config.Consul{Addresses: []string{"https://a:8501", "https://b:8501"}, Prefix: "drover"},
		}},
		"all of consul": {"store:\n  consul:\n    addresses:\n      - https://a:8501\n    prefix: lab\n    token_file: /t\n    ca_file: /ca\n    cert_file: /c\n    key_file: /k\n    server_name: server.dc1.consul\n", config.Config{
			Consul: &config.Consul{
				Addresses: []string{"https://a:8501"}, Prefix: "lab", TokenFile: "/t", CAFile: "/ca", CertFile: "/c",
				KeyFile: "/k", ServerName: "server.dc1.consul",
			},
		}},
		"a control replica": {"store: {consul: {addresses: ['c']}}\nca: /etc/drover/ca\nlisten: {address: '0.0.0.0:9470', advertise: 'host1:9470'}\n", config.Config{
			Consul: &config.Consul{Addresses: []string{"c"}, Prefix: "drover"}, CA: "/etc/drover/ca",
			Listen: &config.Listen{Address: "0.0.0.0:9470", Advertise: "host1:9470"},
		}},
		"an agent": {"listen: {address: '10.0.0.1:9471'}\ncontrol:\n  addresses:\n    - 10.0.0.1:9470\n    - '[fd00::2]:9470'\n", config.Config{
			Listen:  &config.Listen{Address: "10.0.0.1:9471", Advertise: "10.0.0.1:9471"},
			Control: []string{"10.0.0.1:9470", "[fd00::2]:9470"},
		}},
	} {
		got, err := config.Parse("d.yaml", []byte(c.src), nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	golden.Table(t, "testdata/refused.txt", func(t *testing.T, c golden.Case) (lines []string) {
		got, err := config.Parse("d.yaml", []byte(c.Input), nil)
		if !errors.Is(err, dataset.ErrInvalid) || got.Pools != nil || got.Labels != nil {
			t.Errorf("%s: %+v, %v", c.Name, got, err)
			return nil
		}
		for _, e := range strictyaml.All(err) {
			lines = append(lines, e.Error())
		}
		return lines
	})
}

func TestBounds(t *testing.T) {
	src := "pools:\n"
	for n := range 65 {
		src += fmt.Sprintf("- {name: p%d, backend: dir, path: /p%d}\n", n, n)
	}
	if _, err := config.Parse("d.yaml", []byte(src), nil); err == nil ||
		!strings.Contains(err.Error(), "too many pools: 65 (64 at most)") {
		t.Error(err)
	}
	src = "labels:\n"
	for n := range 65 {
		src += fmt.Sprintf("  l%d: x\n", n)
	}
	if _, err := config.Parse("d.yaml", []byte(src), nil); err == nil ||
		!strings.Contains(err.Error(), "too many labels: 65 (64 at most)") {
		t.Error(err)
	}
	if _, err := config.Parse("d.yaml", []byte("labels: {a: "+strings.Repeat("x", 1025)+"}"), nil); err == nil ||
		!strings.Contains(err.Error(), "too long") {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"", "pools: [{name: fast, backend: loop, path: /mnt/pool, image: 5GiB}]\nlabels: {a: b}\n",
		"pools: &p []\nlabels: *p\n",
		"store: x", "store: {consul: {addresses: [https://a:1], prefix: p}}", "store: {consul: {addresses: [[]]}}",
		"pools: [{}]", "labels: [a]", "pools:\n- name: a\n  backend: dir\n  path: /\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		c, err := config.Parse("d.yaml", src, nil)
		if err != nil {
			for _, e := range strictyaml.All(err) {
				if line := e.Error(); !errors.Is(e, dataset.ErrInvalid) || !strings.HasPrefix(line, "d.yaml:") ||
					strings.Contains(line, "\n") {
					t.Fatalf("%q: %v", src, e)
				}
			}
			return
		}
		for _, p := range c.Pools {
			if p.Name == "" || p.Backend == "" || !filepath.IsAbs(p.Path) || p.Path != filepath.Clean(p.Path) ||
				p.Image < 0 {
				t.Fatalf("%q: %+v", src, p)
			}
		}
	})
}

// An unknown backend is a mistake like any other, with its place in the file.
func TestUnknownBackend(t *testing.T) {
	known := func(name string) error {
		if name != "loop" {
			return errors.New("unknown backend " + name)
		}
		return nil
	}
	if c, err := config.Parse("d.yaml", []byte("pools: [{name: a, backend: loop, path: /a}]\n"), known); err != nil ||
		len(c.Pools) != 1 {
		t.Errorf("%+v, %v", c, err)
	}
	_, err := config.Parse("d.yaml",
		[]byte("pools:\n- {name: a, backend: loop, path: /a}\n- {name: b, backend: lop, path: /b}\n"), known)
	if want := `d.yaml:3:22: pools[1].backend: unknown backend lop in "- {name: b, backend: lop, path: /b}"`; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}
