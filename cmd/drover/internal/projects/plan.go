package projects

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/composefile"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/safefile"
	"github.com/droverhq/drover/internal/tree"
)

// Item is a volume or a directory that is moved.
type Item struct {
	Key     string       `json:"key"`              // below volumes in the Compose file
	Spec    string       `json:"name"`             // its name in the changed Compose file, such as blog-db@gold
	Volume  string       `json:"volume"`           // the new volume
	Profile string       `json:"profile"`          // of Drover's volume
	Source  string       `json:"source"`           // name of the old volume in the engine, or the path of a directory
	Dir     bool         `json:"dir,omitempty"`    // Source is a directory
	Folder  string       `json:"folder,omitempty"` // the folder with the data of a local volume or a directory
	New     bool         `json:"new,omitempty"`    // the old volume does not exist yet, so nothing is copied
	Bytes   dataset.Size `json:"bytes"`            // at the time of the plan
	Mounts  []string     `json:"mounts"`           // SERVICE:TARGET
	Note    string       `json:"note,omitempty"`   // a hint for the user
	Request uuid.UUID    `json:"request"`          // ID of the request that makes the volume
	Copied  bool         `json:"copied,omitempty"`
	NoCopy  bool         `json:"nocopy,omitempty"` // Source is an empty directory, so its mounts get the option nocopy
}

// Skipped is a source that is not moved, with its mounts.
type Skipped struct {
	Mounts []string `json:"mounts"` // SERVICE:TARGET
	Source string   `json:"source"`
	Reason string   `json:"reason"`
}

// FileChange describes how a Compose file changes.
type FileChange struct {
	Path  string             `json:"path"`
	Notes []composefile.Note `json:"notes"`
}

// Settings are the flags that decide about a plan. A run that continues must have the same ones.
type Settings struct {
	Profile string            `json:"profile,omitempty"`
	Volumes map[string]string `json:"volumes,omitempty"` // specs by NAME
	Skip    []string          `json:"skip,omitempty"`
	Files   []string          `json:"files,omitempty"`
	Leave   bool              `json:"leave,omitempty"`
}

// Plan is what the command will do.
type Plan struct {
	Project  Project        `json:"project"`
	Items    []Item         `json:"items"`
	Skipped  []Skipped      `json:"skipped"`
	Changes  []FileChange   `json:"changes"`
	Services map[string]int `json:"running"` // containers that run, by service
	// Recreated are services whose containers do not run, and mount something that is moved. Their containers are
	// recreated, and not started.
	Recreated []string `json:"recreated,omitempty"`

	edited []composefile.Edited
	texts  map[string][]byte // of the Compose files, as the plan has read them
}

// planner makes a plan. It changes nothing, except that it writes the changed files beside the old ones, so that
// Compose can read them. The caller removes the changed files if it does not carry out the plan.
type planner struct {
	a        *cli.App
	host     Host
	engine   Engine
	remote   cli.Remote
	project  Project
	settings Settings
	all      []Container
	model    model
}

func (p *planner) plan(ctx context.Context) (Plan, error) {
	plan := Plan{Project: p.project, Services: running(p.project.Name, p.all), Skipped: []Skipped{}}
	if err := checkFiles(p.project); err != nil {
		return plan, err
	}
	if err := checkVersion(ctx, p.host.Compose); err != nil {
		return plan, err
	}
	text, err := p.host.Compose.Config(ctx, p.project, p.project.Files)
	if err != nil {
		return plan, err
	}
	if p.model, err = parseModel(text); err != nil {
		return plan, err
	}
	for _, check := range []func(Project, model, []Container) error{checkServices, checkContainers} {
		if err := check(p.project, p.model, p.all); err != nil {
			return plan, err
		}
	}
	if err := p.checkSettings(ctx); err != nil {
		return plan, err
	}
	files, err := readFiles(p.project.Files)
	if err != nil {
		return plan, err
	}
	plan.texts = map[string][]byte{}
	for _, f := range files {
		plan.texts[f.Path] = f.Text
	}
	sources, err := p.sources(ctx)
	if err != nil {
		return plan, err
	}
	taken, err := p.choose(sources, &plan)
	if err != nil {
		return plan, err
	}
	plan.Skipped = append(plan.Skipped, p.imageVolumes()...)
	if len(taken) == 0 {
		return plan, nil
	}
	if plan.Items, err = p.items(ctx, taken, files); err != nil {
		return plan, err
	}
	plan.Recreated = p.recreated(taken, plan.Services)
	err = p.edit(ctx, &plan, files)
	return plan, err
}

// imageVolumes returns the volumes of the containers that only their image declares. No Compose file mentions them, so
// they are easily forgotten: the image of PostgreSQL 18 has its data there if the file mounts the folder of version 17.
func (p *planner) imageVolumes() (list []Skipped) {
	for _, c := range p.all {
		mounts, known := p.model.services[c.Service]
		if c.Project != p.project.Name || c.OneOff || !known {
			continue
		}
		for _, m := range c.Mounts {
			declared := slices.ContainsFunc(mounts, func(want modelMount) bool {
				return filepath.Clean(want.Target) == filepath.Clean(m.Target)
			})
			if m.Type == "volume" && !declared {
				list = append(list, Skipped{[]string{c.Service + ":" + m.Target}, m.Name,
					"only the image declares it, and its data stays there (name it in the Compose file, and copy the " +
						"data, to move it)"})
			}
		}
	}
	return list
}

// recreated returns the services of Plan.Recreated.
func (p *planner) recreated(taken []*source, services map[string]int) []string {
	found := map[string]bool{}
	for _, s := range taken {
		for _, u := range s.uses {
			found[u.service] = services[u.service] == 0 && slices.ContainsFunc(p.all, func(c Container) bool {
				return c.Project == p.project.Name && c.Service == u.service && !c.OneOff
			})
		}
	}
	maps.DeleteFunc(found, func(_ string, is bool) bool { return !is })
	return slices.Sorted(maps.Keys(found))
}

func readFiles(paths []string) ([]composefile.File, error) {
	var out []composefile.File
	for _, path := range paths {
		text, err := safefile.Read(path)
		if err != nil {
			return nil, err
		}
		out = append(out, composefile.File{Path: path, Text: text})
	}
	return out, nil
}

// sources returns the sources of all mounts, with the reason for each one that is not moved.
func (p *planner) sources(ctx context.Context) ([]*source, error) {
	all := sourcesOf(p.model)
	for _, s := range all {
		var err error
		switch {
		case s.reason != "":
		case p.settings.Leave && s.dir:
			s.reason = "it is no volume of Drover"
		case p.settings.Leave:
			err = p.inspectDrover(ctx, s)
		case s.dir:
			err = s.inspectDir(p.project, p.host)
		default:
			err = s.inspectVolume(ctx, p.engine, p.model.volumes[s.id])
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.label(p.project.Dir), err)
		}
	}
	if !p.settings.Leave {
		skipOverlaps(all, p.project.Dir)
	}
	for _, s := range all {
		if s.reason == "" {
			c := s.sharer(p.project, p.model, p.all)
			if c == "" && p.settings.Leave {
				var err error
				if c, err = otherUser(ctx, p.remote, p.project, p.all, s.name); err != nil {
					return nil, err
				}
			}
			if c != "" {
				s.reason = "it is shared with container " + c + ", which is no container of the project's services"
			}
		}
	}
	return all, nil
}

// inspectDrover finds out whether a volume is one of Drover, for a project that leaves.
func (p *planner) inspectDrover(ctx context.Context, s *source) error {
	v, err := p.engine.Volume(ctx, s.name)
	switch {
	case errors.Is(err, dataset.ErrNotFound):
		s.reason = "it does not exist"
		return nil
	case err != nil:
		return err
	case v.Driver == "local":
		s.reason = "it is no volume of Drover"
		return nil
	}
	_, err = p.remote.Volume(ctx, s.name)
	if errors.Is(err, dataset.ErrNotFound) {
		s.reason = "it has the driver " + dataset.Clip(v.Driver)
		return nil
	}
	return err
}

// choose returns the sources that are moved, and adds the others to the plan as skipped. --skip and --volume name
// sources.
func (p *planner) choose(all []*source, plan *Plan) ([]*source, error) {
	for _, name := range p.settings.Skip {
		s := p.named(all, name)
		if s == nil {
			return nil, p.unknownName("--skip", name, all)
		}
		s.reason = cmp.Or(s.reason, "it is left out with --skip")
	}
	for _, name := range slices.Sorted(maps.Keys(p.settings.Volumes)) {
		s := p.named(all, name)
		if s == nil {
			return nil, p.unknownName("--volume", name, all)
		}
		if s.reason != "" {
			return nil, dataset.Errorf(dataset.ErrInvalid, "--volume %s: it cannot be taken: "+
				"%s", dataset.Clip(name), s.reason)
		}
	}
	var taken []*source
	for _, s := range all {
		if s.reason == "" {
			taken = append(taken, s)
			continue
		}
		label := s.label(p.project.Dir)
		if s.id == "" {
			label = ""
		}
		plan.Skipped = append(plan.Skipped, Skipped{mountsOf(s), label, s.reason})
	}
	return taken, nil
}

func mountsOf(s *source) []string {
	var out []string
	for _, u := range s.uses {
		out = append(out, u.service+":"+u.Target)
	}
	return out
}

// named returns the source that a user names: by the key or the name of a volume, or by the path of a directory.
func (p *planner) named(all []*source, name string) *source {
	path := name
	if !filepath.IsAbs(path) {
		path = filepath.Join(p.project.Dir, path)
	}
	for _, s := range all {
		if s.id != "" && (!s.dir && (s.id == name || s.name == name) || s.dir && s.id == filepath.Clean(path)) {
			return s
		}
	}
	return nil
}

func (p *planner) unknownName(flag, name string, all []*source) error {
	var known []string
	for _, s := range all {
		switch {
		case s.id == "":
		case s.dir:
			known = append(known, s.label(p.project.Dir))
		default:
			known = append(known, s.id)
		}
	}
	return dataset.Errorf(dataset.ErrInvalid, "%s %s: project %s mounts no such volume or directory (available: "+
		"%s)", flag,
		dataset.Clip(name), p.project.Name, dataset.FormatChoices(known))
}

// items chooses the key and the new volume of each source.
func (p *planner) items(ctx context.Context, taken []*source, files []composefile.File) ([]Item, error) {
	keys := map[string]bool{}
	for key := range p.model.volumes {
		keys[key] = true
	}
	for _, f := range files {
		defined, err := composefile.Keys(f)
		if err != nil {
			return nil, err
		}
		for _, key := range defined {
			keys[key] = true
		}
	}
	var out []Item
	used := map[string]bool{}
	for _, s := range taken {
		i := Item{Key: s.id, Source: s.name, Dir: s.dir, Folder: s.folder, New: s.empty, Mounts: mountsOf(s)}
		i.Request = p.a.NewID()
		if s.dir {
			i.Source, i.Key = s.id, freeKey(p.project, s, keys)
			keys[i.Key] = true
		}
		if s.dir {
			entries, err := os.ReadDir(s.folder)
			if err != nil {
				return nil, err
			}
			i.NoCopy = len(entries) == 0
		}
		if s.dir && s.readOnly() {
			i.Note = "read-only: to keep editing it in place, use --skip " + s.label(p.project.Dir)
		}
		var err error
		if p.settings.Leave {
			err = p.nameLocal(ctx, &i, used)
		} else {
			err = p.nameDrover(ctx, &i, s, used)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.label(p.project.Dir), err)
		}
		used[i.Volume] = true
		out = append(out, i)
	}
	return out, nil
}

// unfit matches the characters that neither a key of Compose nor the name of a volume may have.
var unfit = regexp.MustCompile(`[^A-Za-z0-9_.-]+`)

// freeKey returns a new key for a directory: its path below the folder of the project, or its last two elements.
func freeKey(p Project, s *source, keys map[string]bool) string {
	path := strings.TrimPrefix(s.label(p.Dir), "./")
	if parts := strings.Split(strings.Trim(path, "/"), "/"); filepath.IsAbs(path) {
		path = strings.Join(parts[max(0, len(parts)-2):], "-")
	}
	key := strings.Trim(unfit.ReplaceAllString(path, "-"), ".-_")
	if len(key) < 2 { // Compose takes a single letter for a drive of Windows
		key = p.Name + "-" + key
	}
	if len(key) > 60 {
		key = key[len(key)-60:]
	}
	return free(key, func(k string) bool { return keys[k] })
}

// free returns name or, if that is in use, name with a number appended.
func free(name string, taken func(string) bool) string {
	for n, try := 2, name; ; n++ {
		if !taken(try) {
			return try
		}
		try = fmt.Sprintf("%s-%d", name, n)
	}
}

// nameDrover chooses the volume of Drover for an item, checks the request with a dry run by control, and measures the
// data.
func (p *planner) nameDrover(ctx context.Context, i *Item, s *source, used map[string]bool) error {
	spec, by := "", ""
	for name, given := range p.settings.Volumes {
		if p.named([]*source{s}, name) == nil {
			continue
		}
		if by != "" {
			return dataset.Errorf(dataset.ErrInvalid, "--volume names %s twice, as %s and as %s (use one of them)",
				dataset.Clip(i.Key), dataset.Clip(min(by, name)), dataset.Clip(max(by, name)))
		}
		spec, by = given, name
	}
	name, profile, at := strings.Cut(spec, "@")
	if name == "" {
		var err error
		name = free(unfit.ReplaceAllString(p.project.Name+"-"+i.Key, "-"), func(name string) bool {
			_, findErr := p.remote.Volume(ctx, name)
			if findErr != nil && !errors.Is(findErr, dataset.ErrNotFound) {
				err = findErr
				return false
			}
			return used[name] || findErr == nil
		})
		if err == nil {
			err = dataset.CheckName(name) // it may be too long
		}
		if errors.Is(err, dataset.ErrInvalid) {
			err = fmt.Errorf("%w (choose another name: --volume %s=NAME)", err, i.Key)
		}
		if err != nil {
			return err
		}
	}
	if !at {
		profile = p.settings.Profile
	}
	if i.Spec = name; profile != "" {
		i.Spec += "@" + profile
	}
	out, err := p.remote.Submit(ctx, i.request(true))
	if err != nil {
		return err
	}
	if out.Operation == nil || out.Operation.DatasetRecord == nil {
		return dataset.Errorf(dataset.ErrExists, "volume %s exists already (choose another name: --volume NAME=SPEC)",
			dataset.Clip(name))
	}
	record := out.Operation.DatasetRecord
	i.Volume, i.Profile = record.Volume, record.Profile.Name
	if used[i.Volume] {
		return dataset.Errorf(dataset.ErrInvalid, "volume %s is chosen twice (choose another name: --volume NAME=SPEC)",
			i.Volume)
	}
	if i.New {
		return nil
	}
	if i.Bytes, err = measure(ctx, i.Folder); err != nil {
		return err
	}
	if record.Size > 0 && i.Bytes > record.Size {
		return dataset.Errorf(dataset.ErrNoSpace, "it has %s, and a volume of profile %s has %s (choose a profile "+
			"with a larger size: --volume NAME=@PROFILE, or leave it out: --skip NAME)", i.Bytes.Human(), i.Profile,
			record.Size.Human())
	}
	return nil
}

// request is the request that makes the volume of an item.
func (i *Item) request(dry bool) api.Request {
	req := api.Request{ID: i.Request, Kind: dataset.OpImport, Volume: i.Spec, Path: i.Folder, DryRun: dry}
	if i.New {
		req.Kind, req.Path = dataset.OpCreate, ""
	}
	return req
}

// nameLocal chooses the local volume for an item of a project that leaves.
func (p *planner) nameLocal(ctx context.Context, i *Item, used map[string]bool) error {
	v, err := p.remote.Volume(ctx, i.Source)
	if err != nil {
		return err
	}
	i.Profile = v.Profile.Name
	if v.Status != nil {
		if size := cmp.Or(v.Status.Used, v.Status.InPool); size != nil {
			i.Bytes = *size
		}
	}
	i.Volume = free(p.project.Name+"_"+i.Key, func(name string) bool {
		_, findErr := p.engine.Volume(ctx, name)
		if findErr != nil && !errors.Is(findErr, dataset.ErrNotFound) {
			err = findErr
			return false
		}
		return used[name] || findErr == nil
	})
	i.Spec = i.Volume
	return err
}

func measure(ctx context.Context, folder string) (dataset.Size, error) {
	dir, err := os.Open(folder)
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	size, err := tree.Usage(ctx, dir)
	return dataset.Size(size.Bytes), err
}

// edit writes the changed Compose files beside the old ones, and reads them with Compose. It fails with
// dataset.ErrInvalid, and names the place, if the result differs from the plan.
func (p *planner) edit(ctx context.Context, plan *Plan, files []composefile.File) error {
	env, err := p.host.Compose.Environment(ctx, p.project)
	if err != nil {
		return err
	}
	var changes []composefile.Change
	for _, i := range plan.Items {
		c := composefile.Change{Key: i.Key, Name: i.Spec}
		if i.Dir {
			c.Dir, c.NoCopy = i.Source, i.NoCopy
		}
		changes = append(changes, c)
	}
	plan.edited, err = composefile.Edit(files, changes, p.resolver(env))
	if err != nil {
		return err
	}
	var paths []string
	for _, e := range plan.edited {
		path := e.Path
		if len(e.Notes) > 0 {
			path = e.Path + newSuffix
			plan.Changes = append(plan.Changes, FileChange{e.Path, e.Notes})
			if err := writeBeside(e.Path, path, e.Text); err != nil {
				return err
			}
		}
		paths = append(paths, path)
	}
	text, err := p.host.Compose.Config(ctx, p.project, paths)
	if err != nil {
		return err
	}
	got, err := parseModel(text)
	if err != nil {
		return err
	}
	p.model.expect(plan.Items)
	if at := difference(p.model, got); at != "" {
		return unsafeError(files, at)
	}
	return nil
}

// unsafeError returns the error for files that would mean something else than the plan. Where a file takes mounts from
// another one, that is probably the cause, and the error has the line.
func unsafeError(files []composefile.File, at string) error {
	for _, f := range files {
		if line, what := composefile.Foreign(f); line > 0 {
			return dataset.Errorf(dataset.ErrInvalid, "%s:%d: %s is in another file, which is not edited, so %s "+
				"would differ from the plan (leave the mount out with --skip)", f.Path, line, what, at)
		}
	}
	return dataset.Errorf(dataset.ErrInvalid, "%s cannot be edited safely: %s would differ from the plan (does it "+
		"share an anchor? leave the mount out with --skip)", files[0].Path, at)
}

// resolver returns the function that resolves the sources of mounts.
func (p *planner) resolver(env map[string]string) composefile.Resolve {
	return func(source string, bind bool) string {
		text, err := composefile.Interpolate(source, env)
		if err != nil || text == "" {
			return ""
		}
		if home, ok := strings.CutPrefix(text, "~"); ok {
			text = env["HOME"] + home
		}
		switch {
		case filepath.IsAbs(text):
			return filepath.Clean(text)
		case bind || strings.HasPrefix(text, "."):
			return filepath.Join(p.project.Dir, text)
		}
		return ""
	}
}
