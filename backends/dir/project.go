package dir

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/safefile"
	"github.com/droverhq/drover/internal/tree"
)

// Drover uses the projects from firstProject to lastProject. Other programs usually start at a small number, so their
// projects do not collide with these. The search of a pool begins at one of rangeStarts points, which are rangeStep
// projects apart. The ranges of two pools can overlap, so assign checks that a project is unused.
const (
	firstProject = 0x40000000
	lastProject  = math.MaxInt32
	rangeStarts  = 1 << 14 // number of points
	rangeStep    = 1 << 16
)

// roundingSlack is more than a filesystem adds to a limit when it rounds the limit up to whole blocks.
const roundingSlack = 128 << 10

// projects enforces the sizes of the datasets of one pool by project quotas.
//
// It assigns a project to each new head, and sets, compares and lifts the limits of these projects. mu
// protects next while the pool is open. The other fields are set when the pool is opened, and do not
// change after.
type projects struct {
	fs         fsctl.Kind
	advice     string // what would make the filesystem enforce sizes; "" if it does
	unenforced int    // datasets whose size is not enforced

	mu   sync.Mutex
	next uint32 // the project to try first
}

// newProjects examines whether the filesystem of a pool enforces project quotas.
func newProjects(s *shelf.Shelf) (*projects, error) {
	fs, err := fsctl.KindOf(s.Path())
	if err != nil {
		return nil, err
	}
	p := &projects{fs: fs}
	return p, s.Within(func(dir *os.File) (err error) {
		p.advice, err = quotaAdvice(dir, p.fs)
		return err
	})
}

// quotaAdvice returns an instruction to make a filesystem of this kind enforce sizes below a directory. It returns ""
// if the filesystem enforces them already.
func quotaAdvice(dir *os.File, kind fsctl.Kind) (string, error) {
	enforced, err := fsctl.EnforcesProjects(dir)
	switch {
	case errors.Is(err, fsctl.ErrNoProjects) && (kind == fsctl.XFS || kind == fsctl.Ext):
		return noProjects, nil
	case err != nil && !errors.Is(err, fsctl.ErrNoProjects):
		return "", err
	case enforced:
		id, inherited, err := fsctl.Project(dir)
		if err == nil && inherited {
			return fmt.Sprintf("the pool is inside of project %d, and projects cannot be nested: use a directory "+
				"that is in no project", id), nil
		}
		return "", err
	}
	switch kind {
	case fsctl.XFS:
		return "unmount its filesystem and mount it with -o prjquota, because a remount cannot enable " +
			"it" + andRestart, nil
	case fsctl.Ext:
		return "unmount its filesystem, tune2fs -O project,quota " + deviceOf(dir.Name()) +
			", mount it with -o prjquota" + andRestart, nil
	}
	return "only XFS and ext4 support them, mounted with -o prjquota", nil
}

// deviceOf returns the device that stores a directory, or a placeholder if it is unknown.
func deviceOf(dir string) string {
	if table, err := mount.Table(); err == nil {
		if entry := table.On(dir); entry != nil && filepath.IsAbs(entry.Source) {
			return entry.Source
		}
	}
	return "DEVICE"
}

// noProjects is the reason why sizes are not enforced if the operator would need another kernel.
const noProjects = "the kernel does not support project quotas for it"

// andRestart is the end of an instruction that the operator of this host can follow.
const andRestart = ", then restart drover"

// missing returns the lines of Info.Missing: instructions to the operator of this host that make it enforce sizes.
func (p *projects) missing() []string {
	if instruction, actionable := strings.CutSuffix(p.advice, andRestart); actionable {
		return []string{"sizes need project quotas (" + instruction + ")"}
	}
	if p.advice == noProjects {
		return []string{"sizes need another kernel, because this one does not support project quotas for " +
			string(p.fs)}
	}
	return nil
}

// checkEnforced returns an error if the filesystem no longer enforces sizes.
func (p *projects) checkEnforced(dir *os.File) error {
	advice, err := quotaAdvice(dir, p.fs)
	if err == nil && advice != "" {
		err = fmt.Errorf("project quotas were switched off: no size is enforced (%s)", advice)
	}
	return err
}

// enforcement describes how sizes are enforced, or how the operator can make the filesystem enforce them.
func (p *projects) enforcement() string {
	advice := " (" + p.advice + ")"
	if len(p.missing()) > 0 { // Info.Missing has the instruction
		advice = ""
	}
	switch {
	case p.advice != "" && p.unenforced > 0:
		return fmt.Sprintf("no size limits, and %d volumes have a size that is not enforced%s", p.unenforced, advice)
	case p.advice != "":
		return "no size limits" + advice
	}
	full := "EDQUOT, except for processes with CAP_SYS_RESOURCE (docker run --privileged)"
	if p.fs == fsctl.XFS {
		full = "ENOSPC"
	}
	return "sizes by project quotas, df in a volume shows its size, a full volume gets " + full
}

// assign puts an empty directory into an unused project.
func (p *projects) assign(dir *os.File) (uint32, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	named := namedProjects()
	for range rangeStep {
		id := p.next
		if p.next++; p.next > lastProject {
			p.next = firstProject
		}
		q, err := fsctl.ProjectQuota(dir, id)
		if err != nil {
			return 0, err
		}
		if !q.IsUnused() || named[id] {
			continue
		}
		if err := fsctl.SetProject(dir, id); err != nil {
			return 0, err
		}
		// If another pool took the same project concurrently, both pools count two files in it.
		q, err = fsctl.ProjectQuota(dir, id)
		if err != nil || q.Files <= 1 {
			return id, err
		}
	}
	return 0, fmt.Errorf("%d consecutive projects are in use on the filesystem of %s", rangeStep, dir.Name())
}

// namedProjects returns the projects that have a name or a directory in the configuration of this host (projid(5),
// projects(5)).
func namedProjects() map[uint32]bool {
	named := map[uint32]bool{}
	for _, file := range []string{"/etc/projid", "/etc/projects"} {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // most hosts have none
		}
		for line := range strings.Lines(string(text)) {
			for part := range strings.SplitSeq(strings.TrimSpace(line), ":") {
				if id, err := strconv.ParseUint(part, 10, 32); err == nil {
					named[uint32(id)] = true
				}
			}
		}
	}
	return named
}

// projectOf returns the project of a directory if it is in the range from which assign takes projects, and otherwise
// 0.
func projectOf(dir *os.File) uint32 {
	id, inherited, err := fsctl.Project(dir)
	if err != nil || !inherited || id < firstProject || id > lastProject {
		return 0
	}
	return id
}

// enforceAll sets the limit of each head's project to the head's size where they differ, and finds the
// next unused project. List reports a limit that could not be set.
func (p *projects) enforceAll(in *shelf.Shelf) error {
	id := in.ID()
	p.next = firstProject + rangeStep*((uint32(id[0])<<8|uint32(id[1]))%rangeStarts)
	_, err := in.List(func(f *shelf.Folder, _ *backends.Entry) {
		h, err := f.Head()
		if err != nil {
			return
		}
		if p.advice != "" {
			if h.Size != 0 {
				p.unenforced++
			}
			return
		}
		if h.Project >= p.next && h.Project < lastProject {
			p.next = h.Project + 1
		}
		dir, err := openTree(f, h.Tree)
		if err != nil {
			return
		}
		defer dir.Close()
		if h.Project != 0 && projectOf(dir) == h.Project && p.checkLimit(dir, h) != nil {
			_ = fsctl.LimitProject(dir, h.Project, uint64(h.Size))
		}
	})
	return err
}

// describe adds the snapshots to an entry, and the problems with them or with its size.
func (p *projects) describe(f *shelf.Folder, e *backends.Entry) {
	shelf.DescribeTrees(f, e)
	if p.advice != "" {
		return
	}
	h, err := f.Head()
	if err != nil {
		return // DescribeTrees reported it
	}
	dir, err := openTree(f, h.Tree)
	if err != nil {
		return
	}
	defer dir.Close()
	if err := p.checkLimit(dir, h); err != nil {
		shelf.AddProblem(e, err)
	}
}

// checkLimit returns an error if the size of a head is not enforced.
func (p *projects) checkLimit(dir *os.File, h shelf.Head) error {
	if h.Project == 0 {
		if h.Size == 0 {
			return nil
		}
		return fmt.Errorf("its size of %s is not enforced, because its head is in no project: restore a snapshot of it",
			h.Size)
	}
	if projectOf(dir) != h.Project {
		return fmt.Errorf("its head is no longer in project %d: its size is not enforced", h.Project)
	}
	q, err := fsctl.ProjectQuota(dir, h.Project)
	switch {
	case errors.Is(err, fsctl.ErrNoQuota):
		return nil // quotas were switched off since; Status reports it
	case err != nil:
		return err
	case q.Limit < uint64(h.Size) || q.Limit >= uint64(h.Size)+roundingSlack || (q.Limit != 0 && h.Size == 0):
		return fmt.Errorf("the limit of its project %d is %d bytes but its size is %s (0 means none): restart "+
			"drover", h.Project, q.Limit, h.Size)
	}
	return nil
}

func openTree(f *shelf.Folder, name string) (*os.File, error) {
	return f.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
}

// liftLimit removes the limit of a tree's project, so that the project is unused once the tree is removed. It
// does so only if the project is the recorded one. A project that a crash left without a record keeps
// its limit and is not used again, because it may belong to something else.
func (p *projects) liftLimit(f *shelf.Folder, h shelf.Head) {
	if p.advice != "" || h.Project == 0 {
		return
	}
	dir, err := openTree(f, h.Tree)
	if err != nil {
		return
	}
	defer dir.Close()
	if projectOf(dir) == h.Project {
		_ = fsctl.LimitProject(dir, h.Project, 0)
	}
}

// destroy removes the folders of datasets.
func (p *projects) destroy(ctx context.Context, area safefile.Dir, names ...string) error {
	for _, name := range names {
		if sub, err := area.Sub(name); err == nil {
			f := &shelf.Folder{Dir: sub}
			if h, err := f.Head(); err == nil {
				p.liftLimit(f, h)
			}
			_ = sub.Close()
		}
		if err := tree.Remove(ctx, area.File, name); err != nil {
			return err
		}
	}
	return nil
}
