package projects

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/durable"
	"github.com/droverhq/drover/internal/safefile"
)

// Journal is the plan of a move and, once it has begun, the record of it until it is confirmed or undone.
type Journal struct {
	Version  int            `json:"version"`
	Project  Project        `json:"project"`
	Settings Settings       `json:"settings"`
	Step     string         `json:"step"` // the one that began last
	Undoing  bool           `json:"undoing,omitempty"`
	Items    []Item         `json:"items"`
	Skipped  []Item         `json:"skipped,omitempty"`
	Services map[string]int `json:"services"`         // containers to start, by service
	Override string         `json:"override"`         // the text of the override file
	Before   string         `json:"before,omitempty"` // the text of an earlier move

	path string
}

const (
	journalVersion = 2
	stepDone       = "done" // the step that waits for --confirm or --undo
)

// journalPath returns the path of a journal. The checksum distinguishes projects of one name in different folders.
func journalPath(journals string, p Project) string {
	sum := sha256.Sum256([]byte(p.Dir))
	return filepath.Join(journals, p.Name+"-"+hex.EncodeToString(sum[:6])+".json")
}

// loadJournal reads the journal of a project. It returns nil if there is none.
func loadJournal(path string) (*Journal, error) {
	text, err := safefile.ReadPrivate(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	j := &Journal{path: path}
	if err := json.Unmarshal(text, j); err != nil {
		return nil, dataset.Errorf(dataset.ErrCorrupt, "journal %s is damaged: %w", path, err)
	}
	if j.Version != journalVersion {
		return nil, dataset.Errorf(dataset.ErrUnsupported, "journal %s has version %d, and this drover reads version "+
			"%d (use the drover that wrote it)", path, j.Version, journalVersion)
	}
	return j, nil
}

func (j *Journal) save() error {
	text, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return err
	}
	return durable.Replace(j.path, append(text, '\n'))
}

func (j *Journal) remove() error {
	return errors.Join(os.Remove(j.path), durable.SyncDir(filepath.Dir(j.path)))
}

// carryOut carries out the steps of the journal. Each step can be repeated, so every run begins with the first one.
func (c *command) carryOut(ctx context.Context) error {
	for _, s := range []struct {
		step string
		do   func(context.Context) error
	}{{"stop", c.stopAll}, {"aside", c.setAside}, {"copy", c.copyAll}, {"switch", c.switchOver}, {"start", c.start}} {
		c.j.Step = s.step
		if err := c.j.save(); err != nil {
			return err
		}
		c.host.At(s.step)
		err := s.do(ctx)
		if ctx.Err() != nil {
			err = dataset.Errorf(dataset.ErrCancelled, "interrupted")
		}
		if err != nil {
			return fmt.Errorf("project %s, step %s (the same command continues, and drover adopt-project %s --undo "+
				"goes back): %w", c.name, s.step, c.name, err)
		}
	}
	c.j.Step = stepDone
	return c.j.save()
}

// requireStopped fails with dataset.ErrInUse if a container of the project runs, or one that uses the old data.
func (c *command) requireStopped(ctx context.Context) error {
	all, err := c.containers(ctx)
	for _, o := range all {
		if o.runs() && (o.Labels[labelProject] == c.name || c.j.has(func(i Item) bool { return o.uses(&i) })) {
			return dataset.Errorf(dataset.ErrInUse, "container %s runs, and may use the old data (docker stop %s)",
				o.name(), o.name())
		}
	}
	return err
}

// setAside sets the old data aside. A container that was started just before is found at the end: later ones cannot.
func (c *command) setAside(ctx context.Context) error {
	if err := c.requireStopped(ctx); err != nil {
		return err
	}
	for _, i := range c.j.Items {
		if err := setAside(i.Folder); err != nil {
			return err
		}
		c.host.At("set aside")
	}
	return c.requireStopped(ctx)
}

func (c *command) copyAll(ctx context.Context) error {
	for n := range c.j.Items {
		i := &c.j.Items[n]
		if i.Copied {
			continue
		}
		err := c.importItem(ctx, i)
		if err == nil {
			i.Copied = true
			err = c.j.save()
		}
		if err != nil {
			return fmt.Errorf("copy %s into volume %s: %w", i.Source, i.Volume, err)
		}
		c.host.At("copied")
	}
	return nil
}

// importItem makes the volume of Drover for an item, which Drover compares with the source. The request has an ID that
// the journal has recorded before, so it is the same one in a later run. After a failure it gets a new ID.
func (c *command) importItem(ctx context.Context, i *Item) error {
	if v, err := c.remote.Volume(ctx, i.Volume); err == nil && v.Request == i.Request {
		return nil
	}
	c.host.At("submit")
	out, err := c.remote.Submit(ctx, i.request(i.Folder+keptSuffix, false))
	if err == nil && out.Operation == nil {
		err = dataset.Errorf(dataset.ErrExists, "a volume of this name was created meanwhile (go back with --undo)")
	}
	if err != nil {
		return err
	}
	meter := c.a.Meter("import "+i.Volume, c.o.JSON())
	defer meter.Close()
	op, err := c.a.Wait(ctx, c.remote, *out.Operation, meter)
	if err != nil && op.State.Final() {
		i.Request = c.a.NewID()
		err = errors.Join(err, c.j.save())
	}
	return err
}

func (c *command) switchOver(ctx context.Context) error {
	if err := c.putOverride(c.j.Override); err != nil {
		return err
	}
	c.host.At("switched")
	m, err := c.read(ctx)
	for _, i := range c.j.Items {
		if err == nil && m.Volumes[i.Key] != (modelVolume{i.Spec, true}) {
			err = dataset.Errorf(dataset.ErrConflict, "docker compose reads no override file (is COMPOSE_FILE set?)")
		}
	}
	return err
}

// start makes all containers mount what the files say, starts the services that ran before, and waits for them.
func (c *command) start(ctx context.Context) error {
	m, err := c.read(ctx)
	if err != nil {
		return err
	}
	if c.all, err = c.containers(ctx); err != nil {
		return err
	}
	// An early Docker Compose starts an existing container although its volume has another name now.
	err = c.up(ctx, m, m.stale(c.project, c.all), "--no-start", "--force-recreate", "--no-deps")
	if err != nil {
		return err
	}
	c.host.At("recreated")
	if err := c.up(ctx, m, c.j.Services, "--detach"); err != nil {
		return err
	}
	c.host.At("up")
	if c.all, err = c.containers(ctx); err != nil {
		return err
	}
	if err := m.checkMounts(c.project, c.all); err != nil {
		return errors.Join(err, c.stopAll(ctx))
	}
	return c.awaitRunning(ctx)
}

// awaitRunning waits up to two minutes until all containers of the services have run for five seconds, and are healthy.
func (c *command) awaitRunning(ctx context.Context) error {
	for n, steady := 0, 0; len(c.j.Services) > 0 && steady < 5; n++ {
		all, err := c.containers(ctx)
		if err == nil {
			err = c.a.Sleep(ctx, time.Second)
		}
		if err != nil {
			return err
		}
		missing := maps.Clone(c.j.Services)
		for _, o := range all {
			if c.project.has(o) && o.State == "running" && !o.is(container.Unhealthy, container.Starting) {
				missing[o.service()]--
			}
		}
		maps.DeleteFunc(missing, func(_ string, n int) bool { return n <= 0 })
		if steady++; len(missing) > 0 {
			steady = 0
		}
		if n >= 120 && steady == 0 {
			return dataset.Errorf(dataset.ErrConflict, "containers of %s do not run, or are not healthy (docker "+
				"compose logs shows why)", strings.Join(slices.Sorted(maps.Keys(missing)), ", "))
		}
	}
	return nil
}

// undoMove stops the containers, removes the override file, and puts the old data back. The new volumes stay.
func (c *command) undoMove(ctx context.Context) error {
	if !c.j.Undoing {
		c.j.Undoing = true
		for s, n := range c.project.running(c.all) {
			c.j.Services[s] = max(n, c.j.Services[s])
		}
		if err := c.j.save(); err != nil {
			return err
		}
	}
	c.host.At("undo")
	if err := c.stopAll(ctx); err != nil {
		return err
	}
	c.host.At("undo.stopped")
	for _, i := range c.j.Items {
		if !i.Copied && c.remote != nil {
			_, _ = c.remote.CancelOperation(ctx, i.Request.String()) // else it makes a volume that nobody uses
		}
	}
	if err := c.putOverride(c.j.Before); err != nil {
		return err
	}
	c.host.At("undo.switched")
	for _, i := range c.j.Items {
		if err := putBack(i.Folder); err != nil {
			return err
		}
		c.host.At("undo.back")
	}
	return nil
}
