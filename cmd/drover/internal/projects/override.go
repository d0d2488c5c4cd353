package projects

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/durable"
	"github.com/droverhq/drover/internal/safefile"
)

const (
	marker     = "# drover adopt-project" // begins an override file; no other file is replaced
	keptSuffix = ".before-drover"         // ends the name that an old folder has while it is set aside
)

// readAll reads the Compose file alone, and all files that Docker Compose finds. It fails unless they say the same or
// differ by the override file of an earlier move, which it returns.
func (c *command) readAll(ctx context.Context) (before string, err error) {
	text, err := safefile.Read(c.project.override())
	if before = string(text); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return before, err
	}
	if c.base, err = c.read(ctx, c.project.File); err == nil {
		c.model, err = c.read(ctx)
	}
	if err != nil {
		return before, err
	}
	env, _ := os.ReadFile(filepath.Join(c.project.Dir, ".env")) // switchOver notices other places of COMPOSE_FILE
	if before != "" && !strings.HasPrefix(before, marker) || before == "" && difference(c.base, c.model) != "" ||
		strings.Contains("\n"+string(env), "\nCOMPOSE_FILE=") {
		return before, c.project.refused()
	}
	return before, nil
}

// checkOverride fails unless the override file turns the Compose file into the target. For a moment there is a draft in
// the folder of the journals.
func (c *command) checkOverride(ctx context.Context, text string, target model) (err error) {
	draft := journalPath(c.host.Journals, c.project) + ".yaml"
	if err := os.WriteFile(draft, []byte(text), 0o600); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(draft)) }()
	c.host.At("draft")
	m, err := c.read(ctx, c.project.File, draft)
	at := difference(target, m)
	if err == nil && at == "" || ctx.Err() != nil {
		return err
	}
	return dataset.Errorf(dataset.ErrInvalid, "docker compose does not apply an override file as planned: %q would "+
		"differ (use version 2.24 or later; leave out mounts of a file that include names with --skip)", at)
}

// overrideText returns the override file that turns one model into another one. Compose replaces the mount of a service
// at the same target. !reset removes the properties of a volume that an external one must not have.
func overrideText(project string, from, to model) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s wrote this file: the data of these mounts is in volumes of Drover.\n"+
		"# A command that does not read this file cannot start the containers: their old data was set aside.\n"+
		"services:\n", marker, project)
	for _, name := range slices.Sorted(maps.Keys(to.Services)) {
		header := fmt.Sprintf("  %q:\n    volumes:\n", name)
		for _, mount := range to.mounts(name) {
			same := func(o map[string]any) bool { return reflect.DeepEqual(o, mount) }
			if slices.ContainsFunc(from.mounts(name), same) {
				continue
			}
			text, err := json.Marshal(mount)
			if err != nil {
				return "", err
			}
			fmt.Fprintf(&b, "%s      - %s\n", header, text)
			header = ""
		}
	}
	b.WriteString("volumes:\n")
	for _, key := range slices.Sorted(maps.Keys(to.Volumes)) {
		if is := to.Volumes[key]; from.Volumes[key] != is {
			fmt.Fprintf(&b, "  %q: {name: %q, external: true, driver: !reset null, driver_opts: !reset null, "+
				"labels: !reset null}\n", key, is.Name)
		}
	}
	return strings.Replace(b.String(), "services:\nvolumes:", "volumes:", 1), nil
}

// putOverride gives the override file a text, or removes it if the text is empty. It fails if somebody put another file
// in its place since the plan was made. Idempotent.
func (c *command) putOverride(text string) error {
	path := c.project.override()
	now, err := safefile.Read(path)
	missing := errors.Is(err, fs.ErrNotExist)
	if !missing && (err != nil || string(now) != c.j.Override && string(now) != c.j.Before) {
		return dataset.Errorf(dataset.ErrConflict, "%s was edited since the plan was made (move it away)", path)
	}
	if text != "" {
		return errors.Join(durable.ReplaceShared(path, []byte(text)), os.Chmod(path, 0o644))
	}
	if missing {
		return nil
	}
	return errors.Join(os.Remove(path), durable.SyncDir(filepath.Dir(path)))
}

// setAside renames a folder, and puts a symbolic link in its place that leads to itself, in one system call: the engine
// can neither mount it nor create a folder in its place, and removes no volume with such a folder. Idempotent.
func setAside(folder string) error {
	if isLink(folder) {
		return nil
	}
	// The text of the link is for people.
	err := os.Symlink(filepath.Base(folder)+"/moved-to-drover-see-compose.override.yaml", folder+keptSuffix)
	if err != nil && !isLink(folder+keptSuffix) {
		return fmt.Errorf("set %s aside: %w", folder, err)
	}
	return exchange(folder)
}

// putBack undoes setAside. Idempotent.
func putBack(folder string) error {
	kept := folder + keptSuffix
	if isLink(folder) {
		if err := exchange(folder); err != nil {
			return err
		}
	}
	switch {
	case !isThere(kept):
		return nil
	case !isLink(kept):
		return dataset.Errorf(dataset.ErrConflict, "%s exists again, and the old data is in %s (move the new one away)",
			folder, kept)
	}
	return errors.Join(os.Remove(kept), durable.SyncDir(filepath.Dir(folder)))
}

func isLink(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode()&fs.ModeSymlink != 0
}

func exchange(folder string) error {
	err := unix.Renameat2(unix.AT_FDCWD, folder, unix.AT_FDCWD, folder+keptSuffix, unix.RENAME_EXCHANGE)
	if err != nil {
		return fmt.Errorf("exchange %s and %s: %w", folder, folder+keptSuffix, err)
	}
	return durable.SyncDir(filepath.Dir(folder))
}

// model is what docker compose config says about a project.
type model struct {
	Services map[string]struct {
		Volumes     []modelMount
		Image       string
		Environment map[string]any // with secrets
		Profiles    []string
	}
	Volumes map[string]modelVolume // by key
	whole   map[string]any         // all of it, with secrets
}

type modelMount struct {
	Type     string `json:"type"`
	Source   string `json:"source"`
	Target   string `json:"target"`
	ReadOnly bool   `json:"read_only"`
	Bind     struct{ Propagation string }
}

type modelVolume struct {
	Name     string `json:"name"`
	External bool   `json:"external"`
}

func parseModel(text []byte) (m model, err error) {
	if json.Unmarshal(text, &m) != nil || json.Unmarshal(text, &m.whole) != nil {
		// The error of the decoder can quote a secret.
		return m, dataset.Errorf(dataset.ErrInvalid, "docker compose config printed something that is not a project")
	}
	// Compose prints these or not, depending on the notation: extensions, and empty options of a mount.
	maps.DeleteFunc(m.whole, func(key string, _ any) bool { return strings.HasPrefix(key, "x-") })
	for name := range m.Services {
		for _, mount := range m.mounts(name) {
			maps.DeleteFunc(mount, func(_ string, v any) bool { o, is := v.(map[string]any); return is && len(o) == 0 })
		}
	}
	return m, nil
}

func (m model) mounts(service string) (out []map[string]any) {
	services, _ := m.whole["services"].(map[string]any)
	s, _ := services[service].(map[string]any)
	list, _ := s["volumes"].([]any)
	for _, mount := range list {
		if mount, ok := mount.(map[string]any); ok {
			out = append(out, mount)
		}
	}
	return out
}

func (m model) copy() (model, error) {
	text, err := json.Marshal(m.whole)
	if err != nil {
		return m, err
	}
	return parseModel(text)
}

// moved returns what docker compose config must print after the move of items.
func (m model) moved(items []Item) (model, error) {
	m, err := m.copy()
	if err != nil {
		return m, err
	}
	volumes, _ := m.whole["volumes"].(map[string]any)
	if volumes == nil {
		volumes = map[string]any{}
		m.whole["volumes"] = volumes
	}
	for _, i := range items {
		volumes[i.Key] = map[string]any{"name": i.Spec, "external": true}
		for name := range m.Services {
			for _, mount := range m.mounts(name) {
				if !i.Dir || mount["type"] != "bind" || mount["source"] != i.Source {
					continue
				}
				mount["type"], mount["source"] = "volume", i.Key
				bind, _ := mount["bind"].(map[string]any)
				maps.DeleteFunc(bind, func(k string, _ any) bool { return k != "selinux" })
				if i.NoCopy {
					mount["volume"] = map[string]any{"nocopy": true}
				}
			}
		}
	}
	return m.copy()
}

// difference returns the first place at which two models differ, such as .services.db.volumes, or "". It returns no
// value, because a value can be a secret.
func difference(a, b model) string { return differenceAt("", a.whole, b.whole) }

func differenceAt(path string, a, b any) string {
	am, isA := a.(map[string]any)
	bm, isB := b.(map[string]any)
	if isA && isB {
		keys := maps.Clone(am)
		maps.Copy(keys, bm)
		for _, k := range slices.Sorted(maps.Keys(keys)) {
			if d := differenceAt(path+"."+k, am[k], bm[k]); d != "" {
				return d
			}
		}
	} else if !reflect.DeepEqual(a, b) {
		return path
	}
	return ""
}

// wrongMount returns the target at which a container mounts something else than the Compose files say, or "". It also
// returns "" for containers of other projects, of services that the files do not have, and of docker compose run.
func (m model) wrongMount(p Project, c Container) string {
	for _, want := range m.Services[c.service()].Volumes {
		named := want.Type == "bind" || want.Type == "volume" && want.Source != ""
		right := func(x container.MountPoint) bool {
			return filepath.Clean(x.Destination) == filepath.Clean(want.Target) && string(x.Type) == want.Type &&
				(want.Type == "bind" && x.Source == resolved(want.Source) ||
					want.Type == "volume" && x.Name == m.Volumes[want.Source].Name)
		}
		if named && p.has(c) && !slices.ContainsFunc(c.Mounts, right) {
			return want.Target
		}
	}
	return ""
}

// stale returns the services that have a container with a wrong mount, and how many containers each of them has.
func (m model) stale(p Project, all []Container) map[string]int {
	count, wrong := map[string]int{}, map[string]bool{}
	for _, c := range all {
		if p.has(c) {
			count[c.service()]++
			wrong[c.service()] = wrong[c.service()] || m.wrongMount(p, c) != ""
		}
	}
	maps.DeleteFunc(count, func(service string, _ int) bool { return !wrong[service] })
	return count
}

// checkMounts fails if a container of the project mounts something else than the Compose files say.
func (m model) checkMounts(p Project, all []Container) error {
	for _, c := range all {
		if target := m.wrongMount(p, c); target != "" {
			return dataset.Errorf(dataset.ErrConflict, "container %s has another mount at %s than the Compose file "+
				"(run docker compose up -d --force-recreate)", c.name(), target)
		}
	}
	return nil
}
