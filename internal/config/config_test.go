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
	const good = "{name: a, backend: loop, path: /a}"
	for name, c := range map[string]struct {
		src  string
		want []string
	}{
		"unknown key": {
			"pool: []\n",
			[]string{
				`d.yaml:1:1: pool: unknown key "pool", did you mean pools? (available: ca, cgroup_parents, control, fence_programs, labels, list, listen, metrics, pools, publish_facts, store, transfers) in "pool: []"`,
			},
		},
		"remotes": {
			"remotes: {address: '0.0.0.0:9471'}\n",
			[]string{"d.yaml:1:1: remotes: drover serves no repositories: use rclone or rest-server " +
				"(docs/push-and-pull.md) in \"remotes: {address: '0.0.0.0:9471'}\""},
		},
		"store": {"store: consul\n", []string{"d.yaml:1:8: store: expected a mapping, not a text (keys: consul) in " +
			"\"store: consul\""}},
		"no kind": {
			"store: {}\n",
			[]string{
				`d.yaml:1:8: store: it names no kind of store: use consul with its addresses, or omit store in "store: {}"`,
			},
		},
		"bolt": {
			"store: {bolt: {}}\n",
			[]string{
				`d.yaml:1:9: store.bolt: it is the default without a store section: omit it in "store: {bolt: {}}"`,
			},
		},
		"no addresses": {
			"store: {consul: {prefix: a}}\n",
			[]string{
				`d.yaml:1:17: store.consul: consul needs addresses, such as ["https://consul1:8501"] in "store: {consul: {prefix: a}}"`,
			},
		},
		"zero addresses": {
			"store: {consul: {addresses: []}}\n",
			[]string{
				`d.yaml:1:29: store.consul.addresses: 0 addresses: expected 1 to 16 in "store: {consul: {addresses: []}}"`,
			},
		},
		"no quotes": {"store: {consul: {addresses: [https://c:1]}}\n", []string{
			`d.yaml:1:30: store.consul.addresses[0]: expected an address in quotes, such as "https://consul1:8501" in "store: {consul: {addresses: [https://c:1]}}"`}},
		"a token": {"store: {consul: {addresses: ['c'], token: t}}\n", []string{
			`d.yaml:1:36: store.consul.token: it would be in a file that others may read: put it in a separate file and name that file in token_file in "store: {consul: {addresses: ['c'], token: t}}"`}},
		"half of a pair": {"store: {consul: {addresses: ['c'], cert_file: /c}}\n", []string{
			`d.yaml:1:17: store.consul: cert_file and key_file are required together: one of them is missing in "store: {consul: {addresses: ['c'], cert_file: /c}}"`}},
		"relative file": {"store: {consul: {addresses: ['c'], token_file: t}}\n", []string{
			`d.yaml:1:48: store.consul.token_file: bad path "t": expected an absolute one, without ".." or a slash at its end in "store: {consul: {addresses: ['c'], token_file: t}}"`}},
		"control": {
			"control: {addresses: [a:1]}\n",
			[]string{
				`d.yaml:1:23: control.addresses[0]: expected an address in quotes, such as "10.0.0.1:9470" in "control: {addresses: [a:1]}"`,
			},
		},
		"a program": {
			"fence_programs: [off]\n",
			[]string{
				`d.yaml:1:18: fence_programs[0]: bad path "off": expected an absolute one, without ".." or a slash at its end in "fence_programs: [off]"`,
			},
		},
		"the root": {
			"cgroup_parents: [/]\n",
			[]string{
				`d.yaml:1:18: cgroup_parents[0]: bad control group "/": expected one below the root group, such as system.slice or docker in "cgroup_parents: [/]"`,
			},
		},
		"up and away": {
			"cgroup_parents: [a/../..]\n",
			[]string{
				`d.yaml:1:18: cgroup_parents[0]: bad control group "a/../..": expected one below the root group, such as system.slice or docker in "cgroup_parents: [a/../..]"`,
			},
		},
		"no group": {
			"cgroup_parents: []\n",
			[]string{
				`d.yaml:1:17: cgroup_parents: 0 control groups: expected 1 to 16, or omit it in "cgroup_parents: []"`,
			},
		},
		"a bad list": {
			"list: clusters\n",
			[]string{
				`d.yaml:1:7: list: unknown "clusters" (available: cluster, node); did you mean cluster? in "list: clusters"`,
			},
		},
		"no switch": {
			"metrics: {}\n",
			[]string{`d.yaml:1:10: metrics: it needs the key volumes, with the value true or false in "metrics: {}"`},
		},
		"a bad switch": {
			"metrics: {volumes: off}\n",
			[]string{`d.yaml:1:20: metrics.volumes: expected true or false, not a text in "metrics: {volumes: off}"`},
		},
		"no rate": {
			"transfers: {}\n",
			[]string{`d.yaml:1:12: transfers: it needs a rate, in bytes per second, such as 100MiB in "transfers: {}"`},
		},
		"a bare rate": {
			"transfers: {rate: 100}\n",
			[]string{
				`d.yaml:1:19: transfers.rate: bad size "100": a bare number is ambiguous (use 100GiB for gibibytes or 100B for bytes) in "transfers: {rate: 100}"`,
			},
		},
		"a low rate": {
			"transfers: {rate: 1KiB}\n",
			[]string{
				`d.yaml:1:19: transfers.rate: 1KiB per second is too low: expected 64KiB or more in "transfers: {rate: 1KiB}"`,
			},
		},
		"no control": {
			"control: {}\n",
			[]string{
				`d.yaml:1:10: control: it needs addresses, such as ["10.0.0.1:9470", "10.0.0.2:9470"] in "control: {}"`,
			},
		},
		"control twice": {"control: {addresses: ['a:1', 'a:1', 'b:0', 'c']}\n", []string{
			"d.yaml:1:30: control.addresses[1]: a:1 is listed twice in \"control: {addresses: ['a:1', 'a:1', " +
				"'b:0', 'c']}\"",
			`d.yaml:1:37: control.addresses[2]: bad address "b:0": expected HOST:PORT, such as 10.0.0.1:9470 in "control: {addresses: ['a:1', 'a:1', 'b:0', 'c']}"`,
			`d.yaml:1:44: control.addresses[3]: bad address "c": expected HOST:PORT, such as 10.0.0.1:9470 in "control: {addresses: ['a:1', 'a:1', 'b:0', 'c']}"`,
		}},
		"listen nowhere": {
			"listen: {}\n", []string{`d.yaml:1:9: listen: it needs an address, such as "0.0.0.0:9470" in "listen: {}"`},
		},
		"listen on all": {
			"listen: {address: '0.0.0.0:1'}\n",
			[]string{
				`d.yaml:1:9: listen: it needs an advertise, the address at which others reach this host, because 0.0.0.0:1 means all addresses in "listen: {address: '0.0.0.0:1'}"`,
			},
		},
		"advertise all": {
			"listen: {address: '0.0.0.0:1', advertise: '[::]:1'}\n",
			[]string{
				`d.yaml:1:43: listen.advertise: others cannot reach this host at [::]:1: expected one of its addresses in "listen: {address: '0.0.0.0:1', advertise: '[::]:1'}"`,
			},
		},
		"listen on a name": {
			"listen: {address: 'host:1'}\n",
			[]string{
				`d.yaml:1:19: listen.address: bad address "host:1": expected an IP address of this host, or 0.0.0.0, with the port in "listen: {address: 'host:1'}"`,
			},
		},
		"ca": {
			"ca: ca\n",
			[]string{
				`d.yaml:1:5: ca: bad path "ca": expected an absolute one, without ".." or a slash at its end in "ca: ca"`,
			},
		},
		"no value": {
			"pools:\nlabels:\n",
			[]string{
				`d.yaml:1:1: pools: it has no value: add one, or omit the key in "pools:"`,
				`d.yaml:2:1: labels: it has no value: add one, or omit the key in "labels:"`,
			},
		},
		"a list": {"- a\n", []string{`d.yaml:1:1: expected a mapping, not a list (keys: ca, cgroup_parents, control, fence_programs, labels, list, listen, metrics, pools, publish_facts, store, transfers) in "- a"`}},
		"pools is a map": {"pools: {a: 1}\n", []string{"d.yaml:1:8: pools: expected a list, not a mapping in " +
			"\"pools: {a: 1}\""}},
		"pool is a text": {"pools: [a]\n", []string{"d.yaml:1:9: pools[0]: expected a mapping, not a text (keys: backend, devices, image, name, overcommit, path, trim) in " +
			"\"pools: [a]\""}},
		"pool of null": {"pools: [~]\n", []string{`d.yaml:1:9: pools[0]: a pool needs a name in "pools: [~]"`}},
		"no path": {
			"pools: [{name: a, backend: loop}]\n",
			[]string{`d.yaml:1:9: pools[0]: a pool needs a path in "pools: [{name: a, backend: loop}]"`},
		},
		"device": {
			"pools: [{name: a, backend: loop, device: /dev/sdb}]\n",
			[]string{
				`d.yaml:1:34: pools[0].device: unknown key "device", did you mean devices? (available: backend, devices, image, name, overcommit, path, trim) in "pools: [{name: a, backend: loop, device: /dev/sdb}]"`,
			},
		},
		"unknown of pool": {
			"pools: [{name: a, backend: loop, paht: /a}]\n",
			[]string{
				`d.yaml:1:34: pools[0].paht: unknown key "paht", did you mean path? (available: backend, devices, image, name, overcommit, path, trim) in "pools: [{name: a, backend: loop, paht: /a}]"`,
			},
		},
		"bad name": {
			"pools: [{name: A, backend: loop, path: /a}]\n",
			[]string{
				`d.yaml:1:16: pools[0].name: bad name "A": expected 1 to 63 lower-case letters, digits or '-', with a letter or digit first in "pools: [{name: A, backend: loop, path: /a}]"`,
			},
		},
		"relative": {
			"pools: [{name: a, backend: loop, path: a/b}]\n",
			[]string{
				`d.yaml:1:40: pools[0].path: bad path "a/b": expected an absolute one, without ".." or a slash at its end in "pools: [{name: a, backend: loop, path: a/b}]"`,
			},
		},
		"not clean": {
			"pools: [{name: a, backend: loop, path: /a/../b}]\n",
			[]string{
				`d.yaml:1:40: pools[0].path: bad path "/a/../b": expected an absolute one, without ".." or a slash at its end in "pools: [{name: a, backend: loop, path: /a/../b}]"`,
			},
		},
		"root": {
			"pools: [{name: a, backend: loop, path: /}]\n",
			[]string{
				`d.yaml:1:40: pools[0].path: bad path "/": expected an absolute one, without ".." or a slash at its end in "pools: [{name: a, backend: loop, path: /}]"`,
			},
		},
		"image": {
			"pools: [{name: a, backend: loop, path: /a, image: 5}]\n",
			[]string{
				`d.yaml:1:51: pools[0].image: bad size "5": a bare number is ambiguous (use 5GiB for gibibytes or 5B for bytes) in "pools: [{name: a, backend: loop, path: /a, image: 5}]"`,
			},
		},
		"devices and image": {
			"pools: [{name: a, backend: loop, devices: [/dev/a], image: 5GiB}]\n",
			[]string{
				`d.yaml:1:53: pools[0].image: a pool uses either an image or devices, not both in "pools: [{name: a, backend: loop, devices: [/dev/a], image: 5GiB}]"`,
			},
		},
		"no devices": {
			"pools: [{name: a, backend: loop, devices: []}]\n",
			[]string{
				`d.yaml:1:43: pools[0].devices: a pool of 0 devices: expected 1 to 64 in "pools: [{name: a, backend: loop, devices: []}]"`,
			},
		},
		"relative device": {
			"pools: [{name: a, backend: loop, devices: [sdb]}]\n",
			[]string{
				`d.yaml:1:44: pools[0].devices[0]: bad path "sdb": expected an absolute one, without ".." or a slash at its end in "pools: [{name: a, backend: loop, devices: [sdb]}]"`,
			},
		},
		"device twice": {
			"pools: [{name: a, backend: loop, devices: [/dev/a, /dev/a]}]\n",
			[]string{
				`d.yaml:1:52: pools[0].devices[1]: device /dev/a is listed twice in "pools: [{name: a, backend: loop, devices: [/dev/a, /dev/a]}]"`,
			},
		},
		"device of another": {
			"pools:\n- {name: a, backend: loop, devices: [/dev/a]}\n- {name: b, backend: loop, devices: [/dev/b, /dev/a]}\n",
			[]string{
				`d.yaml:3:3: pools[1]: pool b has device /dev/a of pool a in "- {name: b, backend: loop, devices: [/dev/b, /dev/a]}"`,
			},
		},
		"trim": {
			"pools: [{name: a, backend: loop, devices: [/dev/a], trim: 7x}]\n",
			[]string{
				`d.yaml:1:59: pools[0].trim: bad trim "7x": expected weekly, never, or a time of 1h or more, such as 24h or 3d in "pools: [{name: a, backend: loop, devices: [/dev/a], trim: 7x}]"`,
			},
		},
		"overcommit": {
			"pools: [{name: a, backend: loop, path: /a, overcommit: 150%}]\n",
			[]string{
				`d.yaml:1:56: pools[0].overcommit: bad overcommit "150%": expected a ratio from 0.01 to 1000, such as 1.5 in "pools: [{name: a, backend: loop, path: /a, overcommit: 150%}]"`,
			},
		},
		"no overcommit": {
			"pools: [{name: a, backend: loop, path: /a, overcommit: 0}]\n",
			[]string{
				`d.yaml:1:56: pools[0].overcommit: bad overcommit "0": expected a ratio from 0.01 to 1000, such as 1.5 in "pools: [{name: a, backend: loop, path: /a, overcommit: 0}]"`,
			},
		},
		"trim of a path": {
			"pools: [{name: a, backend: loop, path: /a, trim: never}]\n",
			[]string{
				`d.yaml:1:44: pools[0].trim: only a pool on devices is trimmed: omit it in "pools: [{name: a, backend: loop, path: /a, trim: never}]"`,
			},
		},
		"name twice": {
			"pools:\n- " + good + "\n- {name: a, backend: dir, path: /b}\n",
			[]string{`d.yaml:3:3: pools[1]: pool a is defined twice in "- {name: a, backend: dir, path: /b}"`},
		},
		"path twice": {
			"pools:\n- " + good + "\n- {name: b, backend: dir, path: /a}\n",
			[]string{`d.yaml:3:3: pools[1]: pool b has the path of pool a in "- {name: b, backend: dir, path: /a}"`},
		},
		"published to nobody we know": {"publish_facts: [swarn, 5]\n", []string{
			`d.yaml:1:17: publish_facts[0]: facts cannot be published to "swarn" (available: consul, swarm); did you mean swarm? in "publish_facts: [swarn, 5]"`,
			"d.yaml:1:24: publish_facts[1]: expected a text, not a number (put it in quotes) in \"publish_facts: " +
				"[swarn, 5]\"",
		}},
		"published twice": {
			"publish_facts: [swarm, swarm]\n",
			[]string{`d.yaml:1:16: publish_facts: swarm is listed twice in "publish_facts: [swarm, swarm]"`},
		},
		"label": {"labels: {-a: b, c: [d], e: ~}\n", []string{
			`d.yaml:1:10: labels.-a: bad label key "-a": expected 1 to 63 letters, digits, '_', '.', '/' or '-', with a letter or digit first in "labels: {-a: b, c: [d], e: ~}"`,
			`d.yaml:1:20: labels.c: expected a text, not a list in "labels: {-a: b, c: [d], e: ~}"`,
			`d.yaml:1:25: labels.e: it has no value: use "" for an empty one in "labels: {-a: b, c: [d], e: ~}"`,
		}},
		"several": {"labels: 5\npools: [{name: A, backend: B, path: c}]\n", []string{
			`d.yaml:1:9: labels: expected a mapping, not a number in "labels: 5"`,
			`d.yaml:2:16: pools[0].name: bad name "A": expected 1 to 63 lower-case letters, digits or '-', with a letter or digit first in "pools: [{name: A, backend: B, path: c}]"`,
			`d.yaml:2:28: pools[0].backend: bad name "B": expected 1 to 63 lower-case letters, digits or '-', with a letter or digit first in "pools: [{name: A, backend: B, path: c}]"`,
			`d.yaml:2:37: pools[0].path: bad path "c": expected an absolute one, without ".." or a slash at its end in "pools: [{name: A, backend: B, path: c}]"`,
		}},
	} {
		got, err := config.Parse("d.yaml", []byte(c.src), nil)
		if err == nil {
			t.Errorf("%s: no mistake was found", name)
			continue
		}
		var lines []string
		for _, e := range strictyaml.All(err) {
			lines = append(lines, e.Error())
		}
		if diff := cmp.Diff(c.want, lines); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if !errors.Is(err, dataset.ErrInvalid) || got.Pools != nil || got.Labels != nil {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
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
