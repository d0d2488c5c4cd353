package profiles_test

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/droverhq/drover/profiles"
)

// documents are what loader and schema must agree on.
var documents = []struct {
	name, src string
	ok        bool
}{
	{"least", "default: a\nprofiles: {a: {}}\n", true},
	{"null profile", "default: a\nprofiles:\n  a:\n", true},
	{"all keys", `default: gold
profiles:
  gold:
    description: database volumes
    backend: loop
    pool: fast
    size: 20GiB
    filesystem: {type: xfs, mount: [noatime]}
    snapshots: {required: true, schedule: "*/15 * * * *", keep: {last: 4, hourly: 24, daily: 7, weekly: 4, monthly: 1}}
    quiesce: freeze
    on_delete: {trash: 72h}
    owner: {uid: 999, gid: 999, mode: "0750"}
`, true},
	{"purge", "default: a\nprofiles: {a: {on_delete: purge}}\n", true},
	{"keep", "default: a\nprofiles: {a: {on_delete: keep}}\n", true},
	{"decimal size", "default: a\nprofiles: {a: {size: 1.5TB}}\n", true},
	{"anchors", "default: a\nprofiles:\n  a: {snapshots: &s {schedule: \"@daily\"}}\n  b: {snapshots: *s}\n", true},

	{"empty", "", false},
	{"no default", "profiles: {a: {}}\n", false},
	{"no profiles", "default: a\nprofiles: {}\n", false},
	{"list", "[]\n", false},
	{"unknown key", "default: a\nprofiles: {a: {szie: 5GiB}}\n", false},
	{"unknown top key", "default: a\nprofiles: {a: {}}\nextra: 1\n", false},
	{"bare size", "default: a\nprofiles: {a: {size: 5}}\n", false},
	{"size with a wrong unit", "default: a\nprofiles: {a: {size: 5XB}}\n", false},
	{"reserved name", "default: a\nprofiles: {a: {}, snapshot-1: {}}\n", false},
	{"capital name", "default: a\nprofiles: {a: {}, Gold: {}}\n", false},
	{"not built yet", "default: a\nprofiles: {a: {qos: {read_iops: 5}}}\n", false},
	{"filesystem", "default: a\nprofiles: {a: {filesystem: {type: btrfs}}}\n", false},
	{"dangerous mount option", "default: a\nprofiles: {a: {filesystem: {mount: [nobarrier]}}}\n", false},
	{"keep without a schedule", "default: a\nprofiles: {a: {snapshots: {keep: {last: 1}}}}\n", false},
	{"negative keep", "default: a\nprofiles: {a: {snapshots: {schedule: \"@daily\", keep: {last: -1}}}}\n", false},
	{"quiesce", "default: a\nprofiles: {a: {quiesce: {exec: [\"true\"]}}}\n", false},
	{"bad duration", "default: a\nprofiles: {a: {on_delete: {trash: soon}}}\n", false},
	{"mode as a number", "default: a\nprofiles: {a: {owner: {mode: 750}}}\n", false},
	{"negative uid", "default: a\nprofiles: {a: {owner: {uid: -1}}}\n", false},
	{"text for a flag", "default: a\nprofiles: {a: {snapshots: {required: \"true\"}}}\n", false},
}

// only the loader can tell these.
var loaderOnly = []string{
	"default: b\nprofiles: {a: {}}\n",
	"default: a\nprofiles: {a: {}, a: {}}\n",
	"default: a\nprofiles: {a: {snapshots: {schedule: \"61 * * * *\"}}}\n",
	"default: a\nprofiles: {a: {}}\n---\ndefault: a\n",
	"default: a\nprofiles: {a: {filesystem: {type: ext4, mount: [largeio]}}}\n",
}

func TestSchemaAgreesWithLoader(t *testing.T) {
	c := jsonschema.NewCompiler()
	f, err := os.Open("profiles.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	doc, err := jsonschema.UnmarshalJSON(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.AddResource("profiles.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("profiles.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	shipped, err := os.ReadFile("../profiles.yaml")
	if err != nil {
		t.Fatal(err)
	}
	all := append(documents, struct {
		name, src string
		ok        bool
	}{"shipped", string(shipped), true})
	for _, d := range all {
		t.Run(d.name, func(t *testing.T) {
			if _, err := profiles.Parse("p.yaml", []byte(d.src)); (err == nil) != d.ok {
				t.Errorf("loader: %v", err)
			}
			var v any
			if err := yaml.Unmarshal([]byte(d.src), &v); err != nil {
				t.Fatal(err)
			}
			b, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			var j any
			if err := json.Unmarshal(b, &j); err != nil {
				t.Fatal(err)
			}
			if err := schema.Validate(j); (err == nil) != d.ok {
				t.Errorf("schema: %v", err)
			}
		})
	}
	for _, src := range loaderOnly {
		if _, err := profiles.Parse("p.yaml", []byte(src)); err == nil {
			t.Errorf("loader takes %q", src)
		}
	}
}

func TestRevision(t *testing.T) {
	get := func(src string) string {
		t.Helper()
		s, err := profiles.Parse("p.yaml", []byte(src))
		if err != nil {
			t.Fatal(err)
		}
		p, err := s.Get("")
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Revision) != 12 {
			t.Errorf("revision %q", p.Revision)
		}
		return p.Revision
	}
	a := get("default: a\nprofiles: {a: {size: 1GiB}}\n")
	if b := get("default: a\nprofiles: {a: {size: 1024MiB, description: other words}}\n"); a != b {
		t.Errorf("the same choices have revisions %s and %s", a, b)
	}
	if b := get("default: a\nprofiles: {a: {size: 2GiB}}\n"); a == b {
		t.Errorf("other choices have the same revision")
	}
}

func FuzzProfiles(f *testing.F) {
	for _, d := range documents {
		f.Add([]byte(d.src))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		s, err := profiles.Parse("p.yaml", src)
		if err != nil {
			return
		}
		if _, err := s.Get(""); err != nil {
			t.Errorf("a set without its default: %v", err)
		}
		for _, p := range s.All() {
			if p.Size < 0 || p.Revision == "" {
				t.Errorf("bad profile %+v", p)
			}
		}
	})
}
