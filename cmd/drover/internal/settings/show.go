package settings

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/dataset"
)

func newProfileShowCmd(a *cli.App) *cobra.Command {
	cmd := cli.Inspect(a, "show NAME [NAME...]", "Show profiles in detail", cli.ProfileWords,
		cli.Inspected[dataset.Profile]{
			Get: func(ctx context.Context, c cli.Remote, name string) (dataset.Profile, error) {
				return c.Profile(ctx, name)
			},
			Form: func(_ context.Context, _ cli.Remote, p dataset.Profile) *cli.Form { return profileForm(p) },
		})
	cmd.Aliases = []string{"inspect"}
	return cmd
}

func profileForm(p dataset.Profile) *cli.Form {
	f := &cli.Form{}
	f.Add("Profile", p.Name)
	f.Add("Revision", p.Revision)
	f.Add("Description", p.Description)
	f.Add("Size", cli.ExactSize(p.Size))
	f.Add("Warn at", fmt.Sprintf("%d%%", p.WarnPercent()))
	f.Add("Storage", storage(p))
	f.Add("Filesystem", strings.TrimSpace(p.Filesystem.Type+" "+strings.Join(p.Filesystem.Mount, ",")))
	f.Add("Snapshots", snapshotLines(p.Snapshots)...)
	f.Add("Backups", backupLine(p.Backup))
	f.Add("Quiesce", string(p.Quiesce))
	f.Add("On delete", cli.OnDelete(p.OnDelete))
	f.Add("Placement", p.Placement)
	f.Add("Owner", ownerLine(p.Owner))
	if f.Add("Access", cli.AccessLine(p.Access)); p.Access != dataset.AccessMany {
		f.Add("Follow", p.Follow.String())
	}
	f.Add("Replicas", replicaLine(p.Replicas))
	f.Add("Failover", p.Failover.String())
	f.Add("Speed", p.QoS.String())
	f.Add("Encryption", keyLine(p.Encryption))
	return f
}

// PolicyLines describes what a profile promises for the data of a volume beyond its size and storage, one promise a
// line.
func PolicyLines(p dataset.Profile) []string {
	lines := []string{"snapshots " + strings.Join(snapshotLines(p.Snapshots), ", ")}
	add := func(name, value string) {
		if value != "" {
			lines = append(lines, name+" "+value)
		}
	}
	add("backups", backupLine(p.Backup))
	add("quiesce", quiesceShort(p.Quiesce))
	add("replicas", replicaLine(p.Replicas))
	add("failover", p.Failover.String())
	if p.Access != dataset.AccessMany {
		add("follow", p.Follow.String())
	}
	add("placement", p.Placement)
	add("owner", ownerLine(p.Owner))
	return lines
}

func keyLine(k dataset.KeySource) string {
	if !k.Wanted() {
		return ""
	}
	return "with the key of " + k.String()
}

func replicaLine(r dataset.Replicas) string {
	if r.Count == 0 {
		return ""
	}
	return fmt.Sprintf("%d, fresh every %s", r.Count, r.Every)
}

func snapshotLines(s dataset.Snapshots) []string {
	lines := []string{"manual only"}
	if s.Schedule != "" {
		lines = []string{"at " + s.Schedule + ", kept: " + keepLine(s.Keep)}
	}
	if s.Required {
		lines = append(lines, "only on pools that take them without copying")
	}
	return lines
}

// backupLine describes the backups of a profile. It is empty if there are only those by hand.
func backupLine(b dataset.Backups) string {
	if b.To == "" {
		return ""
	}
	line := "to " + b.To + ", at " + b.Schedule + ", kept: " + keepLine(b.Keep)
	if v := b.Verify; v.Restore {
		line += ", verified every " + v.Every.String()
		if v.Check != "" {
			line += " with " + v.Check
		}
	}
	return line
}

func ownerLine(o *dataset.Owner) string {
	if o == nil {
		return ""
	}
	line := fmt.Sprintf("%d:%d", o.UID, o.GID)
	if o.Mode != nil {
		line += fmt.Sprintf(", mode %04o", *o.Mode)
	}
	return line
}
