package dataset

import (
	"time"

	"github.com/google/uuid"
)

// Summary is the part of the record of a dataset that a list of volumes shows. Decoding a Summary takes less time than
// decoding the whole Dataset, and a list decodes thousands of records. The keys are those of Dataset and Profile.
type Summary struct {
	ID           uuid.UUID         `json:"id"`
	Volume       string            `json:"volume"`
	Aliases      []string          `json:"aliases,omitempty"`
	State        State             `json:"state"`
	Profile      ProfileSummary    `json:"profile"`
	Size         Size              `json:"size,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
	Protected    bool              `json:"protected,omitempty"`
	Home         uuid.UUID         `json:"home"`
	Pool         uuid.UUID         `json:"pool"`
	Epoch        uint64            `json:"epoch"`
	Copies       []uuid.UUID       `json:"copies,omitempty"`
	SharedMounts []SharedMount     `json:"shared_mounts,omitempty"`
	Created      time.Time         `json:"created"`
	Trash        *Trash            `json:"trash,omitempty"`
}

// ProfileSummary is the part of a profile that a list of volumes shows.
type ProfileSummary struct {
	Name       string     `json:"name"`
	Size       Size       `json:"size,omitempty"`
	Filesystem Filesystem `json:"filesystem"`
	Access     Access     `json:"access,omitempty"`
	Replicas   Replicas   `json:"replicas,omitzero"`
}

// Dataset returns a record that has only the fields of the summary.
func (s Summary) Dataset() Dataset {
	return Dataset{
		ID: s.ID, Volume: s.Volume, Aliases: s.Aliases, State: s.State,
		Profile: Profile{
			Name: s.Profile.Name, Size: s.Profile.Size, Filesystem: s.Profile.Filesystem, Access: s.Profile.Access,
			Replicas: s.Profile.Replicas,
		},
		Size: s.Size, Labels: s.Labels, Protected: s.Protected, Home: s.Home, Pool: s.Pool, Epoch: s.Epoch,
		Copies: s.Copies, SharedMounts: s.SharedMounts, Created: s.Created, Trash: s.Trash,
	}
}
