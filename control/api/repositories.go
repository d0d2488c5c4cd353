package api

import "github.com/droverhq/drover/dataset"

// NewRepository asks for the record of a repository for backups.
type NewRepository struct {
	Name     string                 `json:"name" maxLength:"63"` // name of the new repository
	URL      string                 `json:"url" maxLength:"1024" doc:"an absolute path, or a URL of sftp, s3 or rest"`
	Password dataset.PasswordSource `json:"password"` // where each node reads the password of the repository
	// Absolute path of the file with the S3 keys on each node, in the format of the AWS command line.
	CredentialsFile string `json:"credentials_file,omitempty" maxLength:"1024"`
}

// Repository returns the record without its time and its author.
func (r NewRepository) Repository() dataset.Repository {
	return dataset.Repository{Name: r.Name, URL: r.URL, Password: r.Password, CredentialsFile: r.CredentialsFile}
}
