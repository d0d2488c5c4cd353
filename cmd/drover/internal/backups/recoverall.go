package backups

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

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
		return r.app.PrintLine("%d of %d volumes are recovered, and %d exist already", len(list)-kept,
			len(list), kept)
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

// checkEncryption fails if the volume of a backup was encrypted, and the profile that it had does not encrypt now. If
// the caller chose the profile with --profile, checkEncryption only prints a note.
func (r *recovery) checkEncryption(p *printer, b api.VolumeBackup) error {
	profile, lost := losesEncryption(b, r.profiles, cmp.Or(r.profile, b.Profile))
	switch {
	case !lost:
		return nil
	case r.profile == "":
		return dataset.Errorf(dataset.ErrUnsupported, "volume %s was encrypted, and profile %s does not encrypt (add "+
			"its encryption to profiles.yaml, or recover the volume unencrypted: %s %[1]s --profile %[2]s)", b.Volume,
			profile, r.command(b.Repository))
	}
	p.print(func() { noteUnencrypted(r.app, b, profile) })
	return nil
}

// losesEncryption reports whether the volume of a backup was encrypted, and the profile of its new volume does not
// encrypt. An empty name is that of the default profile. losesEncryption also returns the name of the profile.
func losesEncryption(b api.VolumeBackup, profiles []api.ListedProfile, name string) (profile string, lost bool) {
	i := slices.IndexFunc(profiles, func(p api.ListedProfile) bool {
		return p.Name == name || name == "" && p.Default
	})
	if b.Record == nil || !b.Record.Encrypted || i < 0 {
		return "", false
	}
	return profiles[i].Name, !profiles[i].Encryption.Wanted()
}

// noteUnencrypted prints that the files of a backup are written unencrypted, as the caller chose.
func noteUnencrypted(a *cli.App, b api.VolumeBackup, profile string) {
	_, _ = fmt.Fprintf(a.ErrOut, "drover: volume %s was encrypted, and profile %s does not encrypt: its files are "+
		"written unencrypted\n", cli.Clean(b.Volume), profile)
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

// wait waits for the operation that restores a backup.
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
