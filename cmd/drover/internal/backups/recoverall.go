package backups

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// recoverAll recovers the candidates, up to --parallel of them at the same time. If one fails, the others are
// recovered. After an interrupt, no further restore begins, and those in progress continue.
func (r *recovery) recoverAll(ctx context.Context, c cli.Remote, list []*candidate) error {
	ctx, stop := r.app.Signals(ctx)
	defer stop()
	p := &printer{meters: r.app.Meters()}
	each(list, r.parallel, func(cand *candidate) {
		if ctx.Err() != nil {
			cand.Problem = dataset.ProblemOf(dataset.Errorf(dataset.ErrCancelled, "interrupted"))
			return
		}
		line, err := r.recoverOne(ctx, c, p, cand)
		cand.Problem = dataset.ProblemOf(err)
		switch {
		case err != nil && ctx.Err() != nil: // summarize reports the interrupt
		case err != nil:
			cand.State = stateFailed
			p.print(func() { r.app.PrintError(ctx, err) })
		case !r.out.JSON():
			p.print(func() { _ = r.app.PrintLine("%s", line) })
		}
		if err == nil && !r.out.DryRun && cand.State != stateExists && cand.State != stateOlder {
			cand.State = stateRestored
		}
	})
	p.close()
	if r.out.JSON() {
		if err := cli.JSONList(r.app.Out, list); err != nil {
			return err
		}
	}
	return r.summarize(ctx, list)
}

// checked says what each restore has checked: restic compares all data with their hashes, and the restore counts the
// files as the backup did.
const checked = "each recovered volume has all files that it had when it was backed up, and all data agree with " +
	"their hashes"

// summarize prints how many candidates were recovered, and how many of the volumes existed already. With -o json and
// for a dry run, it prints nothing. It fails if a candidate was not recovered.
func (r *recovery) summarize(ctx context.Context, list []*candidate) error {
	failed, kept, restored := 0, 0, 0
	for _, cand := range list {
		switch {
		case cand.Problem != nil:
			failed++
		case cand.State == stateExists, cand.State == stateOlder, cand.State == stateOtherData:
			kept++
		case cand.State == stateRestored:
			restored++
		}
	}
	switch {
	case ctx.Err() != nil && failed > 0:
		return dataset.Errorf(dataset.ErrCancelled, "interrupted: %d of %d volumes are not recovered yet, and "+
			"restores in progress continue (drover operation ls; repeat the command to recover the others)",
			failed, len(list))
	case failed > 0:
		return fmt.Errorf("%d of %d volumes were not recovered", failed, len(list))
	case r.out.DryRun || r.out.JSON():
		return nil
	}
	if restored > 0 {
		_, _ = fmt.Fprintf(r.app.ErrOut, "drover: checked: %s\n", checked)
	}
	if kept > 0 {
		return r.app.PrintLine("%d of %d volumes are recovered, and %d exist already", len(list)-kept, len(list), kept)
	}
	return r.app.PrintLine("%d of %[1]d volumes are recovered", len(list))
}

// printer prints the lines of several goroutines. While bars are drawn on the terminal, it keeps the lines until close.
type printer struct {
	meters *cli.ProgressGroup
	mu     sync.Mutex
	kept   []func()
}

func (p *printer) print(line func()) {
	if !p.meters.Drawn() {
		p.meters.Exclusively(line)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kept = append(p.kept, line)
}

func (p *printer) close() {
	p.meters.Close()
	for _, line := range p.kept {
		line()
	}
}

// recoverOne recovers a candidate. It returns a line for the user about the result.
func (r *recovery) recoverOne(ctx context.Context, c cli.Remote, p *printer, cand *candidate) (string, error) {
	b := cand.Backup
	if r.takesOver(cand) {
		req := api.Request{Kind: dataset.OpUpdate, Volume: cand.present, TakeOver: true}
		_, err := r.app.Submit(ctx, c, r.out, req)
		return fmt.Sprintf("volume %s takes over from cluster %.8s: it is backed up as its profile says", cand.present,
			cand.apart.Cluster), err
	}
	switch cand.State {
	case stateExists, stateOlder:
		return r.keep(cand)
	case stateRestored:
		return fmt.Sprintf("volume %s was recovered from backup %s before", b.Volume, short(b.ID)), nil
	case stateOtherData:
		return "", dataset.Errorf(dataset.ErrExists, "volume %s exists, and is not known to be from backup %s: it "+
			"stays as it is (drover backup restore %[2]s NEW creates another volume)", b.Volume, short(b.ID))
	case stateNoProfile:
		return "", noProfileError(b)
	case stateRestoring:
		if r.out.DryRun {
			return fmt.Sprintf("dry run: volume %s is being recovered from backup %s", b.Volume, short(b.ID)), nil
		}
		return r.wait(ctx, c, p, b, *cand.operation)
	}
	if err := r.checkUnambiguous(cand); err != nil {
		return "", err
	}
	var err error
	if cand.Backup, err = c.VolumeBackup(ctx, b.Repository, b.ID); err != nil {
		cand.Backup = b
		return "", fmt.Errorf("volume %s: %w", b.Volume, err)
	}
	if err := r.checkEncryption(p, cand.Backup); err != nil {
		return "", err
	}
	return r.create(ctx, c, p, cand.Backup)
}

// noProfileError returns the error for a backup of a volume whose profile does not exist.
func noProfileError(b api.VolumeBackup) error {
	return dataset.Errorf(dataset.ErrNotFound, "profile %s of volume %s does not exist (add it to "+
		"profiles.yaml, or choose another one: --profile PROFILE)", b.Profile, b.Volume)
}

// checkUnambiguous fails with --all if several volumes have or had the name of a candidate.
func (r *recovery) checkUnambiguous(cand *candidate) error {
	if !r.all || len(cand.Older) == 0 {
		return nil
	}
	b := cand.Backup
	return dataset.Errorf(dataset.ErrConflict, "volume %s: %d volumes have or had this name, perhaps on other "+
		"hosts, and --all chooses none of them (%s %[1]s uses %[4]s; drover backup restore "+
		"BACKUP NEW uses another)", b.Volume, len(cand.Older)+1, r.command(b.Repository), short(b.ID))
}

// checkEncryption is the function checkEncryption, and prints its note.
func (r *recovery) checkEncryption(p *printer, b api.VolumeBackup) error {
	note, err := checkEncryption(b, r.profiles, r.profile, r.command(b.Repository)+" "+b.Volume+" --profile ")
	p.print(func() { _, _ = io.WriteString(r.app.ErrOut, note) })
	return err
}

// keep returns the line about a volume that exists. With --at, the caller wants another state of the volume, so keep
// fails.
func (r *recovery) keep(cand *candidate) (string, error) {
	b := cand.Backup
	if r.at != "" {
		return "", dataset.Errorf(dataset.ErrExists, "volume %s exists, and is not replaced by backup %s, taken %s "+
			"(drover backup restore %[2]s NEW creates another volume)", cand.present, short(b.ID),
			cli.When(r.app.Now(), b.Taken))
	}
	if cand.State == stateOlder {
		return fmt.Sprintf("volume %s was recovered from an earlier backup; a newer one exists: %s, taken %s (drover "+
			"backup restore %[2]s NEW)", b.Volume, short(b.ID), cli.When(r.app.Now(), b.Taken)), nil
	}
	if cand.present != b.Volume {
		return fmt.Sprintf("volume %s exists, and is now named %s", b.Volume, cand.present), nil
	}
	return fmt.Sprintf("volume %s exists, and is the volume that was backed up", b.Volume), nil
}

// create creates a volume from a backup, and waits for it.
func (r *recovery) create(ctx context.Context, c cli.Remote, p *printer, b api.VolumeBackup) (string, error) {
	opts := r.options(p, b)
	o := *r.out
	o.Detach = true
	req := api.Request{
		Kind: dataset.OpImport, Volume: b.Volume, Options: opts, Repository: b.Repository, Backup: b.ID,
	}
	if b.Elsewhere && r.keepApart {
		req.KeptApart = b.Cluster
	}
	out, err := r.app.Submit(ctx, c, &o, req)
	switch {
	case err != nil:
		return "", err
	case r.out.DryRun:
		return "dry run: would recover volume " + r.describe(b), nil
	case out.Operation == nil:
		return "recovered volume " + r.describe(b), nil
	}
	return r.wait(ctx, c, p, b, *out.Operation)
}

// options returns the options of the volume that is created from a backup: the profile, the size, the filesystem and
// the labels that the backup has recorded, or those that the caller chose. It prints what is left out.
func (r *recovery) options(p *printer, b api.VolumeBackup) map[string]string {
	opts := map[string]string{}
	if profile := cmp.Or(r.profile, b.Profile); profile != "" {
		opts["profile"] = profile
	}
	opts, leftOut := withRecord(b.Record, opts, r.profileSize, r.profile == "")
	for _, err := range leftOut {
		p.print(func() {
			_, _ = fmt.Fprintf(r.app.ErrOut, "drover: volume %s: not restored: %v\n", cli.Clean(b.Volume), err)
		})
	}
	return opts
}

func (r *recovery) wait(ctx context.Context, c cli.Remote, p *printer, b api.VolumeBackup, op dataset.Operation) (
	string, error) {
	m := p.meters.Meter("recover " + b.Volume)
	defer m.Close()
	_, err := r.app.Wait(ctx, c, op, m)
	return "recovered volume " + r.describe(b), err
}

// describe names a volume, its backup and the age of its content.
func (r *recovery) describe(b api.VolumeBackup) string {
	return fmt.Sprintf("%s from backup %s, taken %s", b.Volume, short(b.ID), cli.When(r.app.Now(), b.Taken))
}

// chooseCluster returns those of the backups in a repository that drover recover uses. These are the backups of this
// cluster. The backups of one other cluster are added for the names that this cluster did not back up, if this cluster
// has no backups in the repository, or if the user chose that cluster or how to recover from it. Then a recovery can be
// repeated after some of the recovered volumes were backed up. chooseCluster fails with dataset.ErrAmbiguous if there
// are several other clusters, and the user has not chosen one.
func (r *recovery) chooseCluster(all []api.VolumeBackup, now cluster, repository string) (used []api.VolumeBackup,
	err error) {
	here, others := map[string]bool{}, map[uuid.UUID][]api.VolumeBackup{}
	for _, b := range all {
		isKnown := func(v api.Volume) bool { return v.ID == b.Dataset }
		switch {
		case !b.Elsewhere || slices.ContainsFunc(now.volumes, isKnown):
			here[b.Volume] = true
			used = append(used, b)
		case r.cluster == "" || strings.HasPrefix(b.Cluster.String(), strings.ToLower(r.cluster)):
			others[b.Cluster] = append(others[b.Cluster], b)
		}
	}
	switch {
	case r.cluster != "" && len(others) == 0:
		return nil, dataset.Errorf(dataset.ErrNotFound, "repository %s has no backups of another cluster %q",
			repository,
			dataset.Clip(r.cluster))
	case len(others) == 0:
		return used, nil
	case len(used) > 0 && r.cluster == "" && !r.takeOver && !r.keepApart:
		_, _ = fmt.Fprintf(r.app.ErrOut, "drover: backups of other clusters are not used (--cluster uses them): %s\n",
			r.describeClusters(others))
		return used, nil
	case len(others) > 1:
		return nil, dataset.Errorf(dataset.ErrAmbiguous, "repository %s has backups of %d other clusters (choose one: "+
			"--cluster UUID): %s", repository, len(others), r.describeClusters(others))
	}
	for id, list := range others {
		r.other = id
		for _, b := range list {
			if !here[b.Volume] {
				used = append(used, b)
			}
		}
	}
	slices.SortStableFunc(used, func(x, y api.VolumeBackup) int { return x.Taken.Compare(y.Taken) })
	return used, nil
}

// takesOver reports whether a volume takes over from the cluster that it is kept apart from. If that cluster has no
// backups in the repository any more, the user must have named the volume.
func (r *recovery) takesOver(cand *candidate) bool {
	return r.takeOver && !r.out.DryRun && cand.apart != nil &&
		(cand.apart.Cluster == r.other || r.other == uuid.Nil && cand.chosen)
}

// describeClusters describes clusters by their backups, which are sorted by time.
func (r *recovery) describeClusters(clusters map[uuid.UUID][]api.VolumeBackup) string {
	var texts []string
	for _, list := range clusters {
		last := list[len(list)-1]
		texts = append(texts, fmt.Sprintf("%s (node %s, last backup %s)", clusterOf(last),
			cli.Clean(cmp.Or(last.Node, "unknown")), cli.Ago(r.app.Now(), last.Taken)))
	}
	slices.Sort(texts)
	return strings.Join(texts, "; ")
}

// decide sets r.keepApart or r.takeOver if a volume will be created from a backup of another cluster. With --all it
// asks the user, and fails with dataset.ErrInvalid if there is no terminal. A volume that the user names is kept apart.
func (r *recovery) decide(list []*candidate, repository string) error {
	i := slices.IndexFunc(list, func(cand *candidate) bool {
		return cand.Backup.Elsewhere && (cand.State == stateAbsent || cand.State == stateNoProfile)
	})
	if i < 0 || r.rehearsal || r.out.DryRun || r.takeOver || r.keepApart {
		return nil
	}
	from := clusterOf(list[i].Backup)
	if node := list[i].Backup.Node; node != "" {
		from += " (node " + cli.Clean(node) + ")"
	}
	if !r.all {
		r.keepApart = true
		_, err := fmt.Fprintf(r.app.ErrOut, "drover: the backups are of cluster %s, and the volumes are kept apart: "+
			"they make no scheduled backups to repository %s (if that cluster is gone, repeat the command with "+
			"--take-over)\n", from, repository)
		return err
	}
	if !cli.IsTerminal(r.app.In) {
		return dataset.Errorf(dataset.ErrInvalid, "the backups are of cluster %s: is it gone? (yes: --take-over, and "+
			"the volumes are backed up to repository %s as their profiles say; no, or for a rehearsal: --keep-apart)",
			from, repository)
	}
	return r.ask(from, repository)
}

// ask asks the user whether the cluster that made the backups is gone.
func (r *recovery) ask(from, repository string) error {
	_, err := fmt.Fprintf(r.app.ErrOut, "The backups are of cluster %s. Is it gone?\n"+
		"  - take-over: it is gone. The volumes are backed up to repository %s as their profiles say.\n"+
		"  - keep-apart: it may still exist. The volumes make no scheduled backups to that repository.\n"+
		"Type take-over or keep-apart: ", from, repository)
	if err != nil {
		return err
	}
	line, err := bufio.NewReader(r.app.In).ReadString('\n')
	switch answer := strings.TrimSpace(line); answer {
	case "take-over", "keep-apart":
		r.takeOver, r.keepApart = answer == "take-over", answer == "keep-apart"
		return nil
	}
	if err != nil && line == "" {
		return dataset.Errorf(dataset.ErrCancelled, "not decided, nothing was changed: %w", err)
	}
	return dataset.Errorf(dataset.ErrCancelled, "not decided, nothing was changed")
}

// maxRehearsals is the largest --parallel of a rehearsal: a host runs as many verifications of a repository at a time
// (operation.maxVerifications). With more, the seconds of a volume would include its wait for others.
const maxRehearsals = 2

// rehearsal is the JSON output of drover recover --rehearse.
type rehearsal struct {
	Repository string            `json:"repository"`
	Began      time.Time         `json:"began"`
	Seconds    float64           `json:"seconds"` // from the beginning of the first restore to the end of the last one
	Parallel   uint              `json:"parallel"`
	Bytes      int64             `json:"bytes"`    // of all verified volumes
	Verified   int               `json:"verified"` // number of volumes
	Volumes    []rehearsedVolume `json:"volumes"`
}

// rehearsedVolume is a volume of a rehearsal.
type rehearsedVolume struct {
	Volume   string    `json:"volume"`
	Backup   string    `json:"backup"`
	Taken    time.Time `json:"taken"` // the recovery point: later data would be lost
	Age      float64   `json:"age_seconds"`
	Bytes    int64     `json:"bytes"` // size of the files; 0 if the backup was not restored
	Seconds  float64   `json:"seconds"`
	Verified bool      `json:"verified"` // all files were restored, and equal those of the backup
	// Problem is why the backup was not verified.
	Problem *dataset.Problem `json:"problem,omitempty"`
}

// rehearse restores the backups of the candidates into temporary volumes, and prints a report. It fails if a backup is
// not verified. After an interrupt, no further restore begins, and those in progress continue: their errors name them.
func (r *recovery) rehearse(ctx context.Context, c cli.Remote, repository string, list []*candidate) error {
	ctx, stop := r.app.Signals(ctx)
	defer stop()
	p := &printer{meters: r.app.Meters()}
	out := rehearsal{Repository: repository, Began: r.app.Now(), Parallel: min(r.parallel, uint(len(list)))}
	done := map[*candidate]*rehearsedVolume{}
	for _, cand := range list {
		done[cand] = &rehearsedVolume{}
	}
	each(list, r.parallel, func(cand *candidate) {
		if ctx.Err() != nil {
			done[cand].Problem = dataset.ProblemOf(dataset.Errorf(dataset.ErrCancelled, "interrupted"))
			return
		}
		err := r.rehearseOne(ctx, c, p, cand, done[cand])
		if done[cand].Problem = dataset.ProblemOf(err); err != nil {
			p.print(func() { r.app.PrintError(ctx, err) })
		}
	})
	p.close()
	out.Seconds = r.app.Now().Sub(out.Began).Seconds()
	for _, cand := range list {
		v := done[cand]
		v.Volume, v.Backup, v.Taken = cand.Backup.Volume, cand.Backup.ID, cand.Backup.Taken
		v.Age = out.Began.Sub(v.Taken).Seconds()
		if v.Verified = v.Problem == nil; v.Verified {
			out.Bytes += v.Bytes
			out.Verified++
		}
		out.Volumes = append(out.Volumes, *v)
	}
	if err := r.printRehearsal(out); err != nil {
		return err
	}
	failed := len(out.Volumes) - out.Verified
	switch {
	case failed > 0 && ctx.Err() != nil:
		return dataset.Errorf(dataset.ErrCancelled, "interrupted: %d of %d backups are not verified", failed, len(list))
	case failed > 0:
		return fmt.Errorf("%d of %d volumes could not be recovered now", failed, len(list))
	}
	return nil
}

// rehearseOne restores the backup of a candidate into a temporary volume, compares the files, and sets what it has
// measured. It fails if a recovery of the volume on an empty machine would fail.
func (r *recovery) rehearseOne(ctx context.Context, c cli.Remote, p *printer, cand *candidate,
	v *rehearsedVolume) error {
	b := cand.Backup
	if err := r.checkRecoverable(cand); err != nil {
		return err
	}
	b, err := c.VolumeBackup(ctx, b.Repository, b.ID)
	if err != nil {
		return fmt.Errorf("volume %s: %w", cand.Backup.Volume, err)
	}
	if err := r.checkEncryption(p, b); err != nil {
		return err
	}
	opts := r.options(p, b)
	dropLabels(opts)
	o := *r.out
	o.Detach = true
	out, err := r.app.Submit(ctx, c, &o, api.Request{
		Kind: dataset.OpVerify, Volume: b.Volume, Options: opts, Repository: b.Repository, Backup: b.ID,
	})
	if err != nil || out.Operation == nil {
		return err
	}
	m := p.meters.Meter("rehearse " + b.Volume)
	defer m.Close()
	op, err := r.app.Wait(ctx, c, *out.Operation, m)
	if !op.Ended.IsZero() {
		v.Seconds = op.Ended.Sub(op.Created).Seconds()
	}
	if err == nil {
		v.Bytes = op.Progress.Done
	}
	return err
}

// checkRecoverable fails if recoverOne would create no volume from the backup of a candidate on an empty machine.
func (r *recovery) checkRecoverable(cand *candidate) error {
	profile := cmp.Or(r.profile, cand.Backup.Profile)
	known := func(p api.ListedProfile) bool { return p.Name == profile }
	if profile != "" && r.profile == "" && !slices.ContainsFunc(r.profiles, known) {
		return noProfileError(cand.Backup)
	}
	return r.checkUnambiguous(cand)
}

func (r *recovery) printRehearsal(out rehearsal) error {
	if r.out.JSON() {
		return cli.JSON(r.app.Out, out)
	}
	t := cli.NewTable("VOLUME", "BACKUP", "RECOVERY POINT", "DATA", "TIME", "RESULT")
	var oldest time.Time
	for _, v := range out.Volumes {
		data, took, result := "-", "-", "failed"
		if v.Seconds > 0 {
			took = inSeconds(v.Seconds)
		}
		if v.Verified {
			data, result = dataset.Size(v.Bytes).Human(), "verified"
			if oldest.IsZero() || v.Taken.Before(oldest) {
				oldest = v.Taken
			}
		}
		t.Row(cli.ShortName(v.Volume), short(v.Backup), cli.Ago(out.Began, v.Taken), data, took, result)
	}
	if err := t.Write(r.app.Out); err != nil || out.Verified == 0 {
		return err
	}
	return r.app.PrintLine("%d of %d volumes were restored and compared in %s: %s, oldest recovery point %s",
		out.Verified, len(out.Volumes), inSeconds(out.Seconds), dataset.Size(out.Bytes).Human(),
		cli.Ago(out.Began, oldest))
}

// inSeconds formats a number of seconds: a tenth of a second matters only in short times.
func inSeconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	if d < 10*time.Second {
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}
