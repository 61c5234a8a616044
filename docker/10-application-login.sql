-- Runs once, when the database container makes its data: the login of the application. It owns nothing and makes
-- nothing; `articurated migrate` lets it take on DATABASE_ROLE, which can add history but not change or delete it.
\set ON_ERROR_STOP on
\getenv login DATABASE_LOGIN
\getenv password DATABASE_PASSWORD
CREATE ROLE :"login" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD :'password';
