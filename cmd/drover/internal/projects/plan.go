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

	"github.com/droverhq/drover/cmd/drover/internal/engine"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/safefile"
	"github.com/droverhq/drover/internal/tree"
)

// Item is a volume or a directory behind one or several mounts of a project.
type Item struct {
	Key     string       `json:"key,omitempty"`    // below volumes in the override file
	Spec    string       `json:"name,omitempty"`   // its name there, such as blog-db@gold
	Volume  string       `json:"volume,omitempty"` // the new volume, and its profile
	Profile string       `json:"profile,omitempty"`
	Source  string       `json:"source"`           // name of the old volume in the engine, or the path of a directory
	Dir     bool         `json:"dir,omitempty"`    // Source is a path
	Folder  string       `json:"folder,omitempty"` // the folder with the old data, which is set aside
	Bytes   dataset.Size `json:"bytes,omitempty"`  // at the time of the plan
	Mounts  []string     `json:"mounts"`           // SERVICE:TARGET
	Request uuid.UUID    `json:"request"`          // ID of the request that makes the volume
	Copied  bool         `json:"copied,omitempty"` // the volume exists, and was compared
	NoCopy  bool         `json:"nocopy,omitempty"` // Source is an empty directory, so its mounts get the option nocopy
	Reason  string       `json:"reason,omitempty"` // why it is not moved

	writable bool // by one of the mounts
}

// Settings are the flags that decide about a plan. A run that continues must have the same ones.
type Settings struct {
	Profile string            `json:"profile,omitempty"`
	Volumes map[string]string `json:"volumes,omitempty"` // specs by NAME
	Skip    []string          `json:"skip,omitempty"`
}

// plan returns the journal of a move that has not begun. It changes nothing.
func (c *command) plan(ctx context.Context) (j *Journal, err error) {
	before, err := c.readAll(ctx)
	if err == nil {
		err = c.checkContainers(ctx)
	}
	if err != nil {
		return nil, err
	}
	j = &Journal{Version: journalVersion, Project: c.project, Settings: c.settings,
		Services: c.project.running(c.all), Before: before}
	all, err := c.choose(ctx)
	for _, i := range all {
		if i.Reason != "" {
			j.Skipped = append(j.Skipped, *i)
		} else if err = c.complete(ctx, j, i); err != nil {
			return nil, fmt.Errorf("%s: %w", i.Source, err)
		}
	}
	if err != nil || len(j.Items) == 0 {
		return j, err
	}
	target, err := c.model.moved(j.Items)
	if err == nil {
		j.Override, err = overrideText(c.name, c.base, target)
	}
	if err == nil {
		err = c.checkOverride(ctx, j.Override, target)
	}
	return j, err
}

// choose returns all items, with the reasons of those that are not moved.
func (c *command) choose(ctx context.Context) ([]*Item, error) {
	all := c.model.items()
	for _, i := range all {
		if err := c.inspect(ctx, i); err != nil {
			return nil, fmt.Errorf("%s: %w", i.Source, err)
		}
	}
	c.skipShared(all)
	for _, name := range slices.Concat(c.settings.Skip, slices.Sorted(maps.Keys(c.settings.Volumes))) {
		n := slices.IndexFunc(all, func(i *Item) bool { return i.isNamed(name, c.project.Dir) })
		switch {
		case n < 0:
			return nil, dataset.Errorf(dataset.ErrInvalid, "project %s mounts no volume or directory %s (--dry-run "+
				"lists them)", c.name, dataset.Clip(name))
		case slices.Contains(c.settings.Skip, name):
			all[n].Reason = cmp.Or(all[n].Reason, "it is left out with --skip")
		case all[n].Reason != "":
			return nil, dataset.Errorf(dataset.ErrInvalid, "--volume %s: %s", dataset.Clip(name), all[n].Reason)
		}
	}
	return append(all, c.imageVolumes()...), nil
}

// imageVolumes returns the volumes of containers that only their image declares. They are easily forgotten: the image
// of PostgreSQL 18 has its data there if the Compose file mounts the folder of version 17.
func (c *command) imageVolumes() (list []*Item) {
	for _, o := range c.all {
		service, known := c.model.Services[o.service()]
		for _, m := range o.Mounts {
			declared := slices.ContainsFunc(service.Volumes, func(want modelMount) bool {
				return filepath.Clean(want.Target) == filepath.Clean(m.Destination)
			})
			if known && c.project.has(o) && m.Type == "volume" && !declared {
				list = append(list, &Item{Mounts: []string{o.service() + ":" + m.Destination}, Source: m.Name,
					Reason: "only the image declares it (to move it, name it in the Compose file and copy the data)"})
			}
		}
	}
	return list
}

// items groups the mounts of a model by their sources, in the order of services and targets.
func (m model) items() (out []*Item) {
	for _, service := range slices.Sorted(maps.Keys(m.Services)) {
		mounts := slices.Clone(m.Services[service].Volumes)
		slices.SortFunc(mounts, func(a, b modelMount) int { return cmp.Compare(a.Target, b.Target) })
		for _, u := range mounts {
			i := &Item{Key: u.Source, Source: m.Volumes[u.Source].Name, Dir: u.Type == "bind"}
			if i.Dir {
				i.Key, i.Source, i.Folder = "", u.Source, resolved(u.Source)
			}
			n := slices.IndexFunc(out, func(o *Item) bool {
				return u.Source != "" && o.Key == i.Key && o.Source == i.Source && o.Dir == i.Dir
			})
			if n < 0 {
				n, out = len(out), append(out, i)
			}
			i = out[n]
			i.Mounts, i.writable = append(i.Mounts, service+":"+u.Target), i.writable || !u.ReadOnly
			switch {
			case u.Bind.Propagation != "":
				i.Reason = "its mount has a propagation, which the mount of a volume cannot have"
			case !i.Dir && (u.Type != "volume" || u.Source == ""):
				i.Reason = "it is anonymous, or a mount of type " + dataset.Clip(u.Type)
			}
		}
	}
	return out
}

// isNamed reports whether a user means an item: by the key or the name of a volume, or by the path of a directory.
func (i *Item) isNamed(name, dir string) bool {
	if i.Dir && !filepath.IsAbs(name) {
		name = filepath.Join(dir, name)
	}
	return !i.Dir && name == i.Key || i.Source == name || i.Dir && i.Source == filepath.Clean(name)
}

// systemFolders and systemTrees are folders that belong to no project. Neither does what is below those of systemTrees.
var (
	systemFolders = strings.Fields("/ /home /media /mnt /opt /root /srv /tmp /var /var/cache /var/lib /var/log " +
		"/var/spool /var/tmp")
	systemTrees = strings.Fields("/bin /boot /dev /etc /lib /lib64 /proc /run /sbin /sys /usr /var/lib/docker /var/run")
)

func isSystemFolder(path string) bool {
	return slices.Contains(systemFolders, path) ||
		slices.ContainsFunc(systemTrees, func(dir string) bool { return isWithin(path, dir) })
}

func isWithin(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

func overlaps(a, b string) bool { return a != "" && b != "" && (isWithin(a, b) || isWithin(b, a)) }

// inspect finds the folder and the size of an item, and sets the reason if it is not moved.
func (c *command) inspect(ctx context.Context, i *Item) (err error) {
	switch {
	case i.Reason != "":
	case i.Dir:
		i.Reason = i.dirReason(c.project)
	default:
		i.Folder, err = engine.Path(ctx, c.engine, i.Source, true)
		i.Folder = resolved(i.Folder)
		if errors.Is(err, dataset.ErrNotFound) || errors.Is(err, dataset.ErrUnsupported) {
			i.Reason, err = err.Error(), nil
		}
	}
	if err != nil || i.Reason != "" {
		return err
	}
	dir, err := safefile.OpenFolder(i.Folder)
	if err != nil {
		i.Reason = "Drover cannot import it: " + err.Error()
		return nil
	}
	defer dir.Close()
	table, err := c.host.Mounts()
	if err != nil {
		return err
	}
	if points := table.Under(i.Folder); len(points) > 0 {
		i.Reason = "a filesystem is mounted at " + points[0].Mountpoint + ", so it cannot be set aside"
	}
	size, err := tree.Usage(ctx, dir)
	i.Bytes, i.NoCopy = dataset.Size(size.Bytes), i.Dir && size.Files <= 1
	return err
}

// dirReason returns why the directory of a bind mount is not moved.
func (i *Item) dirReason(p Project) string {
	info, err := os.Stat(i.Folder)
	switch {
	case err != nil:
		return err.Error()
	case !info.IsDir():
		return "it is a single file, a socket or a device"
	case isSystemFolder(i.Source) || isSystemFolder(i.Folder):
		return "it is a folder of the system"
	case !i.writable && !isWithin(i.Source, p.Dir) && !isWithin(i.Folder, resolved(p.Dir)):
		return "it is read-only, and outside of the project's folder"
	case isWithin(resolved(p.Dir), i.Folder) || isWithin(resolved(p.File), i.Folder):
		return "it contains the Compose file"
	}
	return ""
}

// skipShared skips items that contain each other, and those that a container outside of the project's services uses:
// after a copy, they would no longer show the same files. Folders of the system do not count, and neither do read-only
// directories outside of the project's folder.
func (c *command) skipShared(all []*Item) {
	for _, i := range all {
		for _, o := range all {
			everything := o.Dir && (isSystemFolder(o.Source) || !o.writable && !isWithin(o.Source, c.project.Dir))
			if i != o && i.Reason == "" && !everything && overlaps(i.Folder, o.Folder) {
				i.Reason = "it overlaps with " + o.Source + ", which is mounted too"
			}
		}
		for _, o := range c.all {
			_, known := c.model.Services[o.service()]
			if i.Reason == "" && !(c.project.has(o) && known) && o.uses(i) {
				i.Reason = "it is shared with container " + o.name() + ", which is not of the project's services"
			}
		}
	}
}

// uses reports whether a container mounts a volume or can change a folder. A container that has a folder above it
// read-only, such as a monitor that sees the whole host, does not use it.
func (c Container) uses(i *Item) bool {
	for _, x := range c.Mounts {
		above := !x.RW && x.Source != i.Folder && isWithin(i.Folder, x.Source)
		if x.Type == "volume" && !i.Dir && x.Name == i.Source || !above && overlaps(x.Source, i.Folder) {
			return true
		}
	}
	return false
}

// unfit matches the characters that neither a key of Compose nor the name of a volume may have.
var unfit = regexp.MustCompile(`[^A-Za-z0-9_.-]+`)

// free returns name or, if that is in use, name with a number appended.
func free(name string, taken func(string) bool) string {
	for n, try := 2, name; ; n++ {
		if !taken(try) {
			return try
		}
		try = fmt.Sprintf("%s-%d", name, n)
	}
}

// complete adds an item to the journal. It chooses the key and the new volume, and checks the request by a dry run.
func (c *command) complete(ctx context.Context, j *Journal, i *Item) (err error) {
	if i.Dir {
		name := strings.Trim(unfit.ReplaceAllString(strings.TrimPrefix(i.Source, c.project.Dir+"/"), "-"), ".-_")
		i.Key = free(cmp.Or(name, c.name), func(key string) bool {
			_, taken := c.model.Volumes[key]
			return taken || len(key) < 2 || j.has(func(o Item) bool { return o.Key == key }) // "c" would be a drive
		})
	}
	i.Request = c.a.NewID()
	if i.Spec, err = c.spec(ctx, j, i); err != nil {
		return err
	}
	out, err := c.remote.Submit(ctx, i.request(i.Folder, true))
	if err != nil {
		return err
	}
	if out.Operation == nil || out.Operation.DatasetRecord == nil {
		return dataset.Errorf(dataset.ErrExists, "volume %s exists (choose another name: --volume NAME=SPEC)", i.Spec)
	}
	record := out.Operation.DatasetRecord
	i.Volume, i.Profile = record.Volume, record.Profile.Name
	if record.Size > 0 && i.Bytes > record.Size {
		return dataset.Errorf(dataset.ErrNoSpace, "it has %s, and a volume of profile %s has %s (use --volume "+
			"NAME=@PROFILE or --skip NAME)", i.Bytes.Human(), i.Profile, record.Size.Human())
	}
	j.Items = append(j.Items, *i)
	return nil
}

func (j *Journal) has(f func(Item) bool) bool { return slices.ContainsFunc(j.Items, f) }

// spec returns the name and the profile of a new volume: those of --volume and --profile, or a free name.
func (c *command) spec(ctx context.Context, j *Journal, i *Item) (spec string, err error) {
	for name, given := range c.settings.Volumes {
		if i.isNamed(name, c.project.Dir) {
			spec = given
		}
	}
	name, profile, at := strings.Cut(spec, "@")
	if name == "" {
		name = free(unfit.ReplaceAllString(c.name+"-"+i.Key, "-"), func(name string) bool {
			_, err := c.remote.Volume(ctx, name)
			return err == nil || j.has(func(o Item) bool { return o.Volume == name })
		})
		err = dataset.CheckName(name) // it may be too long
	}
	if !at {
		profile = c.settings.Profile
	}
	return strings.TrimSuffix(name+"@"+profile, "@"), err
}

func (i *Item) request(folder string, dry bool) api.Request {
	return api.Request{ID: i.Request, Kind: dataset.OpImport, Volume: i.Spec, Path: folder, DryRun: dry}
}
