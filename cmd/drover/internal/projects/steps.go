package projects

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/tree"
)

// mover carries out the steps of a journal. Each step can be repeated.
type mover struct {
	a      *cli.App
	host   Host
	engine Engine
	remote cli.Remote
	j      *Journal
	quiet  bool

	copied map[string]bool // items that this run has copied, so that they need no second comparison
}

// steps is the order of the steps, and what each does.
func (m *mover) steps() []struct {
	step Step
	do   func(context.Context) error
} {
	return []struct {
		step Step
		do   func(context.Context) error
	}{
		{StepStop, m.stop},
		{StepCopy, m.copyAll},
		{StepVerify, m.verify},
		{StepSwitch, m.switchFiles},
		{StepStart, m.start},
	}
}

// run carries out the steps. If containers were started with the new volumes already, it begins with StepStart.
// Otherwise it begins with the first step, also in a later run, because somebody may have started containers with the
// old data since. The engine does that at a boot, for containers with the restart policy always.
func (m *mover) run(ctx context.Context) error {
	m.copied = map[string]bool{}
	done, err := m.allSwitched()
	if err != nil {
		return err
	}
	from := StepStop
	if done && m.j.Started {
		from = StepStart
	}
	begun := false
	for _, s := range m.steps() {
		if begun = begun || s.step == from; !begun {
			continue
		}
		m.j.Step = s.step
		if err := m.j.save(); err != nil {
			return err
		}
		m.host.At(string(s.step))
		if err := s.do(ctx); err != nil {
			return m.stepError(ctx, s.step, err)
		}
	}
	m.j.Step = StepDone
	return m.j.save()
}

// stepError adds to an error how to continue.
func (m *mover) stepError(ctx context.Context, s Step, err error) error {
	if ctx.Err() != nil {
		return dataset.Errorf(dataset.ErrCancelled, "interrupted at step %s: the same command continues, and drover "+
			"adopt-project %s --undo goes back", s, m.j.Project.Name)
	}
	return fmt.Errorf("project %s, step %s (the same command tries again, and drover adopt-project %s --undo goes "+
		"back): %w",
		m.j.Project.Name, s, m.j.Project.Name, err)
}

// allSwitched reports whether all files are exchanged.
func (m *mover) allSwitched() (bool, error) {
	if m.j.Step != StepSwitch && m.j.Step != StepStart {
		return false, nil
	}
	for _, x := range m.j.Files {
		if done, err := x.switched(); err != nil || !done {
			return false, err
		}
	}
	return true, nil
}

// stop stops all containers of the project.
func (m *mover) stop(ctx context.Context) error {
	if err := m.host.Compose.Stop(ctx, m.j.Project); err != nil {
		return err
	}
	if err := m.requireStopped(ctx); err != nil {
		return err
	}
	return m.requireUnmounted(ctx)
}

// unmountLimit is how many seconds requireUnmounted waits for the reports of the nodes.
const unmountLimit = 30

// requireUnmounted fails with dataset.ErrInUse if a node mounts a volume of Drover that the project leaves: a container
// of another node may write to it.
func (m *mover) requireUnmounted(ctx context.Context) error {
	if !m.j.Settings.Leave {
		return nil
	}
	for _, i := range m.j.Items {
		for n := 0; ; n++ {
			v, err := m.remote.Volume(ctx, i.Source)
			if err != nil {
				return err
			}
			at := slices.IndexFunc(v.SharedMountDetails, func(d api.SharedMountDetail) bool {
				return d.MountCount > 0 && !d.Fenced
			})
			if at < 0 {
				break
			}
			if n == unmountLimit {
				return dataset.Errorf(dataset.ErrInUse, "volume %s is mounted on node %s (stop its containers there)",
					v.Volume, v.SharedMountDetails[at].NodeName)
			}
			if err := m.a.Sleep(ctx, time.Second); err != nil {
				return err
			}
		}
	}
	return nil
}

// requireStopped fails with dataset.ErrInUse if a container of the project runs, or one that uses its data.
func (m *mover) requireStopped(ctx context.Context) error {
	all, err := containers(ctx, m.engine)
	if err != nil {
		return err
	}
	if m.j.Settings.Leave {
		run := slices.DeleteFunc(slices.Clone(all), Container.stopped)
		for _, i := range m.j.Items {
			c, err := otherUser(ctx, m.remote, m.j.Project, run, i.Source)
			if err != nil {
				return err
			}
			if c != "" {
				return dataset.Errorf(dataset.ErrInUse, "container %s uses %s (docker stop %s)", c, i.Source, c)
			}
		}
	}
	for _, c := range all {
		if !c.Running() {
			continue
		}
		if c.Project == m.j.Project.Name {
			return dataset.Errorf(dataset.ErrInUse, "container %s of the project runs (docker stop %s)", c.Name, c.Name)
		}
		for _, i := range m.j.Items {
			if slices.ContainsFunc(c.Mounts, func(x Mount) bool {
				return x.Type == "volume" && !i.Dir && x.Name == i.Source || i.Folder != "" && sees(x, i.Folder)
			}) {
				return dataset.Errorf(dataset.ErrInUse, "container %s uses %s (docker stop "+
					"%s)", c.Name, i.Source, c.Name)
			}
		}
	}
	return nil
}

// copyAll makes the new volumes.
func (m *mover) copyAll(ctx context.Context) error {
	for n := range m.j.Items {
		i := &m.j.Items[n]
		if err := m.checkNew(ctx, i); err != nil {
			return err
		}
		do := m.importItem
		if m.j.Settings.Leave {
			do = m.exportItem
		}
		if err := do(ctx, i); err != nil {
			return fmt.Errorf("copy %s into volume %s: %w", i.Source, i.Volume, err)
		}
		m.host.At("copied")
	}
	return nil
}

// checkNew fails with dataset.ErrConflict if an old volume that did not exist at the time of the plan exists now: its
// data would not be copied.
func (m *mover) checkNew(ctx context.Context, i *Item) error {
	if !i.New {
		return nil
	}
	_, err := m.engine.Volume(ctx, i.Source)
	switch {
	case errors.Is(err, dataset.ErrNotFound):
		return nil
	case err != nil:
		return err
	}
	return dataset.Errorf(dataset.ErrConflict, "volume %s was created since the plan was made (undo the move with "+
		"--undo, and begin again)", i.Source)
}

// importItem makes the volume of Drover for an item. The request has an ID that the journal has recorded before. So
// importItem recognises the operation and the volume of an earlier run. A failed operation is repeated with a new ID.
func (m *mover) importItem(ctx context.Context, i *Item) error {
	v, err := m.remote.Volume(ctx, i.Volume)
	switch {
	case err == nil && v.Request == i.Request:
		return nil
	case err == nil:
		return dataset.Errorf(dataset.ErrExists, "a volume of this name was created meanwhile (undo the move with "+
			"--undo, and begin again with --volume NAME=SPEC)")
	case !errors.Is(err, dataset.ErrNotFound):
		return err
	}
	op, err := m.remote.Operation(ctx, i.Request.String(), 0)
	switch {
	case errors.Is(err, dataset.ErrNotFound):
	case err != nil:
		return err
	case op.State == dataset.OpDone: // it ended after the volume was looked up
		return nil
	case op.State.Final():
		i.Request = m.a.NewID()
		if err := m.j.save(); err != nil {
			return err
		}
	default:
		return m.wait(ctx, i, op)
	}
	m.host.At("submit")
	out, err := m.remote.Submit(ctx, i.request(false))
	if err != nil {
		return err
	}
	if out.Operation != nil {
		if err := m.wait(ctx, i, *out.Operation); err != nil {
			return err
		}
	}
	m.copied[i.Key] = true
	return nil
}

func (m *mover) wait(ctx context.Context, i *Item, op dataset.Operation) error {
	meter := m.a.Meter("import "+i.Volume, m.quiet)
	defer meter.Close()
	_, err := m.a.Wait(ctx, m.remote, op, meter)
	return err
}

// labelMove marks the local volumes that a move has made. Its value is the ID of the journal.
const labelMove = "drover.adopt-project"

// exportItem makes the local volume for an item of a project that leaves. A volume of an earlier run that is not
// complete is removed first. It never removes another volume.
func (m *mover) exportItem(ctx context.Context, i *Item) error {
	v, err := m.engine.Volume(ctx, i.Volume)
	switch {
	case err == nil && v.Labels[labelMove] != m.j.ID.String():
		return dataset.Errorf(dataset.ErrExists, "a volume of this name was created meanwhile (undo the move with "+
			"--undo, and begin again)")
	case err == nil && i.Copied:
		return nil
	case err == nil:
		err = m.engine.RemoveVolume(ctx, i.Volume)
	case errors.Is(err, dataset.ErrNotFound):
		err = nil
	}
	if err != nil {
		return err
	}
	_, err = m.engine.CreateVolume(ctx, i.Volume, map[string]string{
		labelMove: m.j.ID.String(), labelProject: m.j.Project.Name, labelVolume: i.Key,
	})
	if err != nil {
		return err
	}
	m.host.At("created")
	folder, err := m.engine.Folder(ctx, i.Volume)
	if err == nil {
		err = m.unpack(ctx, i.Source, folder)
	}
	if err != nil {
		return err
	}
	i.Copied = true
	return m.j.save()
}

// unpack writes the files of a volume of Drover into an empty folder, durably.
func (m *mover) unpack(ctx context.Context, volume, folder string) error {
	dir, err := os.Open(folder)
	if err != nil {
		return err
	}
	defer dir.Close()
	archive := archiveOf(func(w io.Writer) error {
		_, err := m.remote.Export(ctx, volume, "", w)
		return err
	})
	err = tree.ReadTar(ctx, archive, dir, tree.WithSync())
	return errors.Join(err, archive.end())
}

// verify compares the copies, except those that Drover has compared during an import of this run.
func (m *mover) verify(ctx context.Context) error {
	for _, i := range m.j.Items {
		var err error
		switch {
		case i.New || m.copied[i.Key]:
		case m.j.Settings.Leave:
			var folder string
			if folder, err = m.engine.Folder(ctx, i.Volume); err == nil {
				err = compare(ctx, m.remote, i.Source, folder)
			}
		default:
			err = compare(ctx, m.remote, i.Volume, i.Folder)
		}
		if err != nil {
			return err
		}
		m.host.At("verified")
	}
	return nil
}

// switchFiles exchanges the Compose files, if no container was started meanwhile.
func (m *mover) switchFiles(ctx context.Context) error {
	if err := m.requireStopped(ctx); err != nil {
		return err
	}
	for _, x := range m.j.Files {
		if err := x.do(m.host); err != nil {
			return err
		}
		m.host.At("switched")
	}
	return nil
}
