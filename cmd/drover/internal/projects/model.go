package projects

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/droverhq/drover/dataset"
)

// model is what docker compose config says about a project.
type model struct {
	services map[string][]modelMount      // the mounts of each service
	settings map[string]containerSettings // by service
	volumes  map[string]modelVolume       // by key
	whole    map[string]any               // all of it, with secrets
}

// modelMount is a mount of a service.
type modelMount struct {
	Type     string `json:"type"`
	Source   string `json:"source"`
	Target   string `json:"target"`
	ReadOnly bool   `json:"read_only"`
}

// modelVolume is a key below volumes.
type modelVolume struct {
	Name       string            `json:"name"`
	Driver     string            `json:"driver"`
	External   bool              `json:"external"`
	DriverOpts map[string]string `json:"driver_opts"`
}

func parseModel(text []byte) (model, error) {
	var parsed struct {
		Services map[string]struct {
			Volumes     []modelMount   `json:"volumes"`
			Image       string         `json:"image"`
			Environment map[string]any `json:"environment"`
		} `json:"services"`
		Volumes map[string]modelVolume `json:"volumes"`
	}
	m := model{services: map[string][]modelMount{}, settings: map[string]containerSettings{}}
	if json.Unmarshal(text, &parsed) != nil || json.Unmarshal(text, &m.whole) != nil {
		// The error of the decoder can quote a secret.
		return m, dataset.Errorf(dataset.ErrInvalid, "docker compose config printed something that is not a project")
	}
	for name, s := range parsed.Services {
		m.services[name] = s.Volumes
		set := containerSettings{image: s.Image, env: map[string]string{}}
		for k, v := range s.Environment {
			// Docker Compose prints each $ twice. A variable that has no value is not passed to the container.
			if v, ok := v.(string); ok {
				set.env[k] = strings.ReplaceAll(v, "$$", "$")
			}
		}
		m.settings[name] = set
	}
	m.volumes = parsed.Volumes
	return m, nil
}

// use is a mount of a service.
type use struct {
	service string
	modelMount
}

// uses returns all mounts, sorted by service and target.
func (m model) uses() []use {
	var out []use
	for _, name := range slices.Sorted(maps.Keys(m.services)) {
		mounts := slices.Clone(m.services[name])
		slices.SortFunc(mounts, func(a, b modelMount) int { return cmp.Compare(a.Target, b.Target) })
		for _, mount := range mounts {
			out = append(out, use{name, mount})
		}
	}
	return out
}

// expect applies a plan to a model. The result is what docker compose config must print for the changed files.
func (m model) expect(items []Item) {
	volumes, _ := m.whole["volumes"].(map[string]any)
	if volumes == nil {
		volumes = map[string]any{}
	}
	m.whole["volumes"] = volumes
	byDir := map[string]Item{}
	for _, i := range items {
		volumes[i.Key] = map[string]any{"name": i.Spec, "external": true}
		if i.Dir {
			byDir[i.Source] = i
		}
	}
	m.eachMount(func(mount map[string]any) {
		source, _ := mount["source"].(string)
		if i, ok := byDir[source]; ok && mount["type"] == "bind" {
			mount["type"], mount["source"] = "volume", i.Key
			if i.NoCopy {
				mount["volume"] = map[string]any{"nocopy": true}
			}
		}
	})
}

// eachMount calls f with each mount of each service in the whole model.
func (m model) eachMount(f func(map[string]any)) {
	services, _ := m.whole["services"].(map[string]any)
	for _, s := range services {
		s, _ := s.(map[string]any)
		mounts, _ := s["volumes"].([]any)
		for _, mount := range mounts {
			if mount, ok := mount.(map[string]any); ok {
				f(mount)
			}
		}
	}
}

// normalize removes what depends only on the notation: empty options of volumes, the options of a bind mount that
// Compose prints for the mount of a volume (selinux, for the mode Z), and the extensions of the file (x-…). Compose
// repeats their text.
func (m model) normalize() {
	maps.DeleteFunc(m.whole, func(key string, _ any) bool { return strings.HasPrefix(key, "x-") })
	m.eachMount(func(mount map[string]any) {
		if mount["type"] == "volume" {
			delete(mount, "bind")
		}
		if v, ok := mount["volume"].(map[string]any); ok && len(v) == 0 {
			delete(mount, "volume")
		}
	})
}

// difference returns the first place at which two models differ, such as services.db.volumes, or "". It returns no
// value, because a value can be a secret.
func difference(a, b model) string {
	a.normalize()
	b.normalize()
	return differenceAt("", a.whole, b.whole)
}

func differenceAt(path string, a, b any) string {
	if reflect.DeepEqual(a, b) {
		return ""
	}
	am, aIs := a.(map[string]any)
	bm, bIs := b.(map[string]any)
	if aIs && bIs {
		keys := maps.Clone(am)
		maps.Copy(keys, bm)
		for _, k := range slices.Sorted(maps.Keys(keys)) {
			if d := differenceAt(path+"."+k, am[k], bm[k]); d != "" {
				return d
			}
		}
	}
	as, aIs := a.([]any)
	bs, bIs := b.([]any)
	if aIs && bIs && len(as) == len(bs) {
		for i := range as {
			if d := differenceAt(fmt.Sprintf("%s[%d]", path, i), as[i], bs[i]); d != "" {
				return d
			}
		}
	}
	return path[min(1, len(path)):]
}
