package config_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/config"
	"github.com/droverhq/drover/internal/reference"
	"github.com/droverhq/drover/test/require"
)

func compiled(t *testing.T) *jsonschema.Schema {
	t.Helper()
	schema, err := jsonschema.NewCompiler().Compile("drover.schema.json")
	require.NoError(t, err)
	return schema
}

func instance(t *testing.T, src string) any {
	t.Helper()
	b, err := yaml.YAMLToJSON([]byte(src))
	require.NoError(t, err)
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	require.NoError(t, err)
	return v
}

// TestSchemaHasTheKeysOfTheParser compares the keys of each mapping with those that the parser lists for an unknown
// key.
func TestSchemaHasTheKeysOfTheParser(t *testing.T) {
	keys, err := reference.Page{Schema: config.Schema}.Keys()
	require.NoError(t, err)
	for prefix, src := range map[string]string{
		"":              "zzz: 1\n",
		"store.":        "store: {zzz: 1}\n",
		"store.consul.": "store: {consul: {zzz: 1}}\n",
		"listen.":       "listen: {zzz: 1}\n",
		"control.":      "control: {zzz: 1}\n",
		"transfers.":    "transfers: {zzz: 1}\n",
		"metrics.":      "metrics: {zzz: 1}\n",
		"pools[].":      "pools: [{zzz: 1}]\n",
	} {
		var want []string
		for _, k := range keys {
			if name, ok := strings.CutPrefix(k.Path, prefix); ok && !strings.ContainsAny(name, ".[") {
				want = append(want, name)
			}
		}
		slices.Sort(want)
		_, err := config.Parse("d.yaml", []byte(src), nil)
		if text := fmt.Sprintf("(available: %s)", dataset.FormatChoices(want)); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("the schema has %s: the parser says %v", text, err)
		}
	}
}

// TestSchemaAgrees checks files with the schema and with the parser.
func TestSchemaAgrees(t *testing.T) {
	schema := compiled(t)
	for src, good := range map[string]bool{
		"pools: []\n": true,
		"pools: [{name: a, backend: loop, path: /a, image: 50GiB}]\n":         true,
		"pools: [{name: a, backend: loop, devices: [/dev/a], trim: 3d}]\n":    true,
		"pools: [{name: a, backend: loop, devices: [/dev/a], trim: never}]\n": true,
		"pools: [{name: a, backend: loop, path: /a, overcommit: 1.5}]\n":      true,
		"pools: [{name: a, backend: loop, path: /a, overcommit: 2}]\n":        true,
		"pools: [{name: a, backend: loop, path: /a, overcommit: 0}]\n":        false,
		"pools: [{name: a, backend: loop, path: /a, overcommit: 150%}]\n":     false,
		"pools: [{name: a, backend: loop, devices: [/dev/a], trim: often}]\n": false,
		"pools: [{name: a, backend: loop, path: /a, trim: 24h}]\n":            false,
		"pools: [{name: a, backend: loop, devices: [/dev/a], image: 1GiB}]\n": false,
		"pools: [{name: a, backend: loop}]\n":                                 false,
		"pools: [{name: A, backend: loop, path: /a}]\n":                       false,
		"pools: [{name: a, backend: loop, path: a}]\n":                        false,
		"labels: {rack: r1, io.drover/zone: 5, empty: ''}\n":                  true,
		"labels: {'a b': c}\n": false,
		"store: {consul: {addresses: ['https://a:8501'], cert_file: /c, key_file: /k}}\n": true,
		"store: {consul: {addresses: ['https://a:8501'], cert_file: /c}}\n":               false,
		"store: {}\n": false,
		"listen: {address: '0.0.0.0:9470', advertise: 'host1:9470'}\nca: /etc/drover/ca\n":      true,
		"control: {addresses: ['10.0.0.1:9470']}\n":                                             true,
		"control: {addresses: []}\n":                                                            false,
		"transfers: {rate: 10MiB}\npublish_facts: [swarm]\nlist: cluster\nfence_programs: []\n": true,
		"transfers: {rate: 10}\n":                                                               false,
		"publish_facts: [kubernetes]\n":                                                         false,
		"list: all\n":                                                                           false,
		"cgroup_parents: [docker, /a.slice/b]\n":                                                true,
		"cgroup_parents: []\n":                                                                  false,
		"metrics: {volumes: false}\n":                                                           true,
		"metrics: {volumes: off}\n":                                                             false,
		"metrics: {}\n":                                                                         false,
	} {
		_, err := config.Parse("d.yaml", []byte(src), nil)
		invalid := schema.Validate(instance(t, src))
		if (err == nil) != good || (invalid == nil) != good {
			t.Errorf("%q: the parser says %v, the schema %v", src, err, invalid)
		}
	}
}

// TestExamplesAreValid parses the example of each key at the top.
func TestExamplesAreValid(t *testing.T) {
	var root struct {
		Properties map[string]struct{ Examples []json.RawMessage }
	}
	require.NoError(t, json.Unmarshal(config.Schema, &root))
	for key, p := range root.Properties {
		for _, e := range p.Examples {
			src, err := yaml.JSONToYAML([]byte(fmt.Sprintf("{%q: %s}", key, e)))
			require.NoError(t, err)
			if c, err := config.Parse("d.yaml", src, nil); err != nil || cmp.Equal(c, config.Config{}) {
				t.Errorf("%s: %v, %+v", src, err, c)
			}
		}
	}
}
