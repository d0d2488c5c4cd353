package api

import "github.com/droverhq/drover/dataset"

// ListedProfile is a profile in a list.
type ListedProfile struct {
	dataset.Profile
	Default bool `json:"default,omitempty"` // volumes that request no profile get this one
}

// ListedProfiles returns the profiles in their order. def is the name of the default profile.
func ListedProfiles(all []dataset.Profile, def string) []ListedProfile {
	list := make([]ListedProfile, len(all))
	for i, p := range all {
		list[i] = ListedProfile{Profile: p, Default: p.Name == def}
	}
	return list
}
