package backup

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic"
	"github.com/droverhq/drover/internal/steps"
)

// A push is a backup that also gets an entry in the history of a name: see parseEntry. The order of its steps:
//
//  1. checkPush compares the volume with the history of the repository. Nothing is stored if both sides have changed.
//  2. The backup is made. Without an entry it is no version, so nobody pulls it.
//  3. enter writes the entry.
//  4. confirm reads the history again. If another push has added a version to the name meanwhile, this push withdraws
//     its own version. Each push reads after it has written, so of two pushes at most one does not see the other.
//
// After a crash the operation is repeated. If the entry was written, step 4 follows. Otherwise the push begins again.
// Meanwhile somebody can have pulled the version and pushed one that continues it. Then the push has succeeded.
//
// A version that was withdrawn can stay in the repository for some time: see unwanted. The pushes of this host ignore
// it, so no new version continues it.

// push carries out a push. a has what was stored, also if push fails. A push fails if a part of the repository's list
// is damaged: that could be a version that the volume lacks.
func (c *Creator) push(ctx context.Context, jb *host.Job, op dataset.Operation, repo *restic.Repository,
	a *attemptResult) error {
	list, err := repo.Backups(ctx)
	if err != nil {
		return ofAbsent(err)
	}
	h, err := readHistory(op.Repository, list)
	if err != nil {
		return err
	}
	// After an earlier run, a file may name the backup of this operation as unwanted, although that backup may now
	// become the result. This run finds all backups of the operation in the list.
	if err := c.dropNotes(op.ID); err != nil {
		return err
	}
	if h, err = c.withoutWithdrawn(op, h); err != nil {
		return err
	}
	repeated := madeBy(list, op)
	if made, ok := madeBefore(h, list, op); ok {
		a.made, a.entry = made, entryOf(list, op)
		a.unwanted = slices.DeleteFunc(repeated, func(id string) bool { return id == made.ID })
		return c.confirm(ctx, op, repo)
	}
	a.unwanted = repeated
	if id := entryOf(list, op); id != "" { // its backup was removed, so this run makes the version again
		a.unwanted = append(a.unwanted, id)
		h = slices.DeleteFunc(h, func(v dataset.PushedVersion) bool { return v.ID == op.ID })
	}
	d, _ := c.Cache.Dataset(op.DatasetID) // without it, the entries of the dataset decide
	continues, err := checkPush(h, op, d.BasedOn)
	if err != nil {
		return err
	}
	if err = c.store(ctx, jb, op, repo, a); err != nil {
		return err
	}
	steps.At("push.stored")
	jb.Step("recording the version")
	if a.entry, err = c.enter(ctx, op, repo, a.made, continues); err != nil {
		return err
	}
	return c.confirm(ctx, op, repo)
}

// entryOf returns the ID of the entry of a push; empty if it is not in the list.
func entryOf(list []restic.Backup, op dataset.Operation) string {
	for _, b := range list {
		if v, ok, err := parseEntry(b); ok && err == nil && v.ID == op.ID {
			return b.ID
		}
	}
	return ""
}

// madeBefore returns the backup of a push that an earlier run of its operation has made, if that run has also written
// the entry.
func madeBefore(h dataset.History, list []restic.Backup, op dataset.Operation) (made restic.Backup, ok bool) {
	v, ok := h.Find(op.ID)
	if !ok || v.Removed {
		return made, false
	}
	i := slices.IndexFunc(list, func(b restic.Backup) bool { return b.ID == v.Backup })
	if i < 0 {
		return made, false
	}
	return list[i], true
}

// checkPush fails with dataset.ErrConflict if the volume does not continue what the repository has under the name of a
// push. It returns the version that the new one continues; uuid.Nil if it is the first. refs are the versions on which
// the record of the volume is based.
//
// The repository can be wrong, for example because it was restored from an older backup. So checkPush also fails if the
// repository has other versions of the name, but lacks the one that the record names.
func checkPush(h dataset.History, op dataset.Operation, refs []dataset.VersionRef) (parent uuid.UUID, err error) {
	name, there := op.Push.Name, h.OfName(op.Push.Name)
	for _, r := range refs {
		_, known := h.Find(r.Version)
		if r.Repository == op.Repository && r.Name == name && !known && len(there) > 0 {
			return parent, dataset.Errorf(dataset.ErrConflict, "the repository has versions of %s, but lacks version "+
				"%s, which the volume continues: was the repository restored from an older backup? (%s)", name,
				shortVersion(r.Version), pushBeside(op))
		}
	}
	bases := h.Bases(op.DatasetID, refs)
	var ids []uuid.UUID
	for _, v := range bases {
		ids = append(ids, v.ID)
	}
	known := h.Ancestors(ids...)
	for _, v := range h.Newest(name) {
		if !known[v.ID] {
			return parent, bothChanged(there, bases, known, op)
		}
	}
	return latest(h, bases), nil
}

// latest returns the latest of the versions on which a volume is based: one that no other of them continues.
func latest(h dataset.History, bases []dataset.PushedVersion) uuid.UUID {
	parents := make([]uuid.UUID, len(bases))
	for i, v := range bases {
		parents[i] = v.Parent
	}
	continued := h.Ancestors(parents...)
	for _, v := range slices.Backward(bases) {
		if !continued[v.ID] {
			return v.ID
		}
	}
	return uuid.Nil
}

// maxNamed is how many versions an error names.
const maxNamed = 3

// bothChanged returns the error for a push to a name that has versions which the volume does not continue. It has both
// histories: these versions, and the one that the volume continues. there has the versions of the name, and known those
// that the volume continues.
func bothChanged(there, bases []dataset.PushedVersion, known map[uuid.UUID]bool, op dataset.Operation) error {
	var theirs []string
	for _, v := range slices.Backward(there) {
		if !known[v.ID] && !v.Removed {
			theirs = append(theirs, v.Describe())
		}
	}
	list := strings.Join(theirs[:min(len(theirs), maxNamed)], "; ")
	if more := len(theirs) - maxNamed; more > 0 {
		list += fmt.Sprintf("; and %d more", more)
	}
	ours := "no version of it"
	if v, ok := dataset.LatestBase(bases, op.Push.Name); ok {
		ours = "version " + v.Describe()
	}
	place := op.Repository + "/" + op.Push.Name
	return dataset.Errorf(dataset.ErrConflict, "both sides have changed: the repository has versions that the volume "+
		"lacks: %s. The volume continues %s (%s, or pull theirs as another volume: drover pull %s --as NEW)", list,
		ours, pushBeside(op), place)
}

// pushBeside says how to push a volume to another name.
func pushBeside(op dataset.Operation) string {
	return fmt.Sprintf("push it under another name: drover push %s %s --as NEW", op.Volume, op.Repository)
}

func shortVersion(id uuid.UUID) string { return id.String()[:8] }

// enter writes the entry of a version, and returns its ID. The caller has the dataset's lock in target.busy.
func (c *Creator) enter(ctx context.Context, op dataset.Operation, repo *restic.Repository, made restic.Backup,
	parent uuid.UUID) (id string, err error) {
	v := dataset.PushedVersion{
		ID: op.ID, Repository: op.Repository, Name: op.Push.Name, Parent: parent, Backup: made.ID, Taken: made.Time,
		Pushed: c.Clock.Now(), Volume: op.Volume, Dataset: op.DatasetID, Node: c.NodeName, By: op.Push.By,
	}
	if tags, ok := ParseTags(made.Tags); ok {
		v.Volume = tags.Volume // the volume can have got another name since the request
	}
	text, err := entryText(v)
	if err != nil {
		return "", err
	}
	var b restic.Backup
	err = c.isolate(nil, EntryName, text, func(dir string) (err error) {
		b, _, err = repo.Backup(ctx, restic.Request{Dir: dir, Names: []string{EntryName}, Tags: entryTags(v)})
		return err
	})
	if err == nil {
		steps.At("push.entered")
	}
	return b.ID, err
}

// confirm fails with dataset.ErrConflict if the name of a push has a newest version that is neither the version of the
// push nor continues it.
func (c *Creator) confirm(ctx context.Context, op dataset.Operation, repo *restic.Repository) error {
	list, err := repo.Backups(ctx)
	if err != nil {
		return err
	}
	h, err := readHistory(op.Repository, list)
	if err == nil {
		h, err = c.withoutWithdrawn(op, h)
	}
	if err != nil {
		return err
	}
	newest := h.Newest(op.Push.Name)
	for _, v := range newest {
		if !h.Ancestors(v.ID)[op.ID] { // these include v.ID
			return dataset.Errorf(dataset.ErrConflict, "another push to this name ended at the same time, and this "+
				"one is withdrawn: version %s (see drover repository versions %s/%s, and try again)", v.Describe(),
				op.Repository, v.Name)
		}
	}
	if _, there := h.Find(op.ID); !there || len(newest) == 0 {
		return dataset.Errorf(dataset.ErrCorrupt, "the repository does not list the version that was just written")
	}
	return nil
}

// withoutWithdrawn returns a history without the versions that this host has withdrawn, but not removed yet. It keeps a
// version that the volume of a push was pulled from: the push continues it, so it stays.
func (c *Creator) withoutWithdrawn(op dataset.Operation, h dataset.History) (dataset.History, error) {
	notes, err := c.notes()
	if err != nil {
		return nil, err
	}
	d, _ := c.Cache.Dataset(op.DatasetID)
	return slices.DeleteFunc(slices.Clone(h), func(v dataset.PushedVersion) bool {
		pulled := slices.ContainsFunc(d.BasedOn, func(r dataset.VersionRef) bool { return r.Names(v) })
		return !pulled && slices.ContainsFunc(notes, func(n noted) bool {
			return n.Operation == v.ID && n.names(v.Backup)
		})
	}), nil
}
